/* worker_process.c: see worker_process.h. */
#include "worker_process.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "command.h"
#include "message.h"
#include "worker_serve.h"

#define DEATH_NS 60000000000LL /* what a driver may take to let a killed process go */

extern char **environ;

/* ---- the worker's side ---- */

static void send_step(void *context, int32_t subject, moet_step step)
{
    moet_message message = {0};
    (void)context;
    moet_message_put_int(&message, subject);
    moet_message_put_int(&message, step);
    if (moet_message_send(MOET_WORKER_SOCKET, MOET_SAYS_STEP, &message) != MOET_OK) {
        _exit(MOET_EXIT_FAILED); /* nobody is left to measure for */
    }
    moet_message_release(&message);
}

static moet_status answer(moet_server *server, uint32_t request, moet_message *body)
{
    moet_message reply = {0}, message = {0};
    moet_status status = moet_server_handle(server, request, body, &reply);
    moet_message_put_int(&message, status);
    moet_message_put_text(&message, status != MOET_OK ? moet_last_error() : "");
    moet_message_put(&message, reply.bytes, reply.size_bytes);
    status = moet_message_send(MOET_WORKER_SOCKET, MOET_SAYS_REPLY, &message);
    moet_message_release(&reply);
    moet_message_release(&message);
    return status;
}

/* A crash is nothing to look at afterwards, and of the processes here the kernel had better kill this one. */
static void be_expendable(void)
{
    setrlimit(RLIMIT_CORE, &(struct rlimit){0});
    int file = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    if (file >= 0) {
        ssize_t written = write(file, "500", 3);
        (void)written;
        close(file);
    }
}

/* Of the processors that it may use, every parts-th from the part-th on would share cores of SMT siblings: a run of
 * neighbours is a part. */
static bool keep_to_part(int32_t part, int32_t parts)
{
    cpu_set_t all, own;
    if (sched_getaffinity(0, sizeof all, &all) != 0) {
        return false;
    }
    const int32_t count = CPU_COUNT(&all), first = part * (count / parts), end = first + count / parts;
    CPU_ZERO(&own);
    for (int32_t cpu = 0, n = 0; cpu < CPU_SETSIZE; cpu++) {
        if (!CPU_ISSET(cpu, &all)) continue;
        if (n >= first && n < end) CPU_SET(cpu, &own);
        n++;
    }
    return CPU_COUNT(&own) > 0 && sched_setaffinity(0, sizeof own, &own) == 0;
}

int moet_worker_main(int argc, char **argv)
{
    const long parent = argc == 3 ? strtol(argv[1], NULL, 10) : 0;
    int part = 0, parts = 0;
    if (parent <= 0 || sscanf(argv[2], "%d/%d", &part, &parts) != 2) {
        moet_command_note("%s is for moe-tune sweep to start", MOET_WORKER_WORD);
        return MOET_EXIT_USAGE;
    }
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0 || getppid() != parent) {
        return MOET_EXIT_FAILED;
    }
    be_expendable();
    if (parts > 0 && !keep_to_part(part, parts)) {
        moet_command_note("a worker cannot keep to part %d of %d of the processors", part, parts);
        return MOET_EXIT_FAILED;
    }
    moet_server server = {.notify = send_step};
    moet_status status = MOET_OK;
    while (status == MOET_OK) {
        uint32_t request;
        moet_message body = {0};
        status = moet_message_receive(MOET_WORKER_SOCKET, INT64_MAX, &request, &body);
        if (status == MOET_OK) status = answer(&server, request, &body);
        moet_message_release(&body);
    }
    moet_server_release(&server);
    return status == MOET_NOT_FOUND ? MOET_EXIT_OK : moet_command_fail(status);
}

/* ---- the other side ---- */

moet_status moet_worker_start(int32_t part, int32_t parts, pid_t *process, int *socket)
{
    int ends[2];
    char parent[16], share[32], word[] = MOET_WORKER_WORD, name[] = "moe-tune";
    char *argv[] = {name, word, parent, share, NULL};
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    sigset_t blocked;
    snprintf(parent, sizeof parent, "%ld", (long)getpid());
    snprintf(share, sizeof share, "%d/%d", part, parts);
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) {
        return moet_fail(MOET_IO, "a worker's socket: %s", strerror(errno));
    }
    posix_spawn_file_actions_init(&actions);
    posix_spawnattr_init(&attributes);
    /* Its standard output is not for a library's chatter: that is for data. */
    posix_spawn_file_actions_adddup2(&actions, ends[1], MOET_WORKER_SOCKET);
    posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&actions, STDERR_FILENO, STDOUT_FILENO);
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGINT);
    sigaddset(&blocked, SIGTERM);
    sigaddset(&blocked, SIGHUP);
    posix_spawnattr_setsigmask(&attributes, &blocked);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
    int error = posix_spawn(process, "/proc/self/exe", &actions, &attributes, argv, environ);
    posix_spawnattr_destroy(&attributes);
    posix_spawn_file_actions_destroy(&actions);
    close(ends[1]);
    if (error != 0) {
        close(ends[0]);
        return moet_fail(MOET_IO,
                         "a worker process cannot be started from /proc/self/exe: %s; --in-process does "
                         "without one",
                         strerror(error));
    }
    *socket = ends[0];
    return MOET_OK;
}

static void describe_end(int state, char *how)
{
    if (WIFSIGNALED(state)) {
        snprintf(how, MOET_REASON_SIZE, "was killed by signal %d (%s)", WTERMSIG(state), strsignal(WTERMSIG(state)));
    } else {
        snprintf(how, MOET_REASON_SIZE, "ended with exit code %d", WEXITSTATUS(state));
    }
}

/* Until it has ended, at most limit_ns: whether it has. */
static bool wait_end(pid_t process, int64_t limit_ns, int *state)
{
    const int64_t end_ns = moet_clock_ns() + limit_ns;
    for (int64_t pause_ns = 100000;; pause_ns = pause_ns < 50000000 ? 2 * pause_ns : pause_ns) {
        pid_t ended = waitpid(process, state, WNOHANG);
        if (ended == process || (ended < 0 && errno != EINTR)) {
            return true;
        }
        if (moet_clock_ns() >= end_ns) {
            return false;
        }
        nanosleep(&(struct timespec){.tv_nsec = pause_ns}, NULL);
    }
}

moet_status moet_worker_end(pid_t process, int64_t grace_ns, char *how)
{
    int state = 0;
    if (!wait_end(process, grace_ns, &state)) {
        kill(process, SIGKILL);
        if (!wait_end(process, DEATH_NS, &state)) {
            return moet_fail(MOET_DEVICE,
                             "worker process %ld does not die: the driver holds it; the device may need a reset",
                             (long)process);
        }
    }
    describe_end(state, how);
    return MOET_OK;
}

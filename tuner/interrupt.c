/* interrupt.c: see interrupt.h. */
#include "interrupt.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdint.h>
#include <time.h>

#define SAME_WISH_NS 1000000000LL

/* Set by the signal handler, the only way out of one. */
static volatile sig_atomic_t interrupted;
static _Atomic int64_t first_ns; /* 0: none yet; free of locks, as a handler must be */

static void on_signal(int number)
{
    const int error = errno;
    struct timespec now;
    int64_t first = 0;
    clock_gettime(CLOCK_MONOTONIC, &now);
    const int64_t now_ns = (int64_t)now.tv_sec * 1000000000LL + now.tv_nsec;
    if (!atomic_compare_exchange_strong(&first_ns, &first, now_ns) && now_ns - first >= SAME_WISH_NS) {
        signal(number, SIG_DFL);
        raise(number); /* ends the process when this handler returns */
    }
    interrupted = 1;
    errno = error;
}

const volatile sig_atomic_t *moet_interrupt_catch(void)
{
    struct sigaction action = {.sa_handler = on_signal}, hangup;
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    if (sigaction(SIGHUP, NULL, &hangup) == 0 && hangup.sa_handler != SIG_IGN) {
        sigaction(SIGHUP, &action, NULL);
    }
    return &interrupted;
}

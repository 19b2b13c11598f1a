/* The expert-parallel layer: bits of one rank, for 1, 2 and 4 ranks, in every transport; errors that every rank gets
 * in time. Starts a process for each rank; under mpirun (or torchrun, Slurm) it is one rank of it, and runs the cases.
 *
 *   test_ep [--device SPEC] [--cases N] [--ranks N] [--gpus N] [--transport T]     SPEC "cuda": each rank has the
 * device of its number, or, with --gpus, of its number modulo N; "cuda:0": all ranks share one. T: sums by this
 * transport only, without the errors */
#include "ep_case.h"

#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *spec = "host", *asked; /* asked: the transport of all cases */
static int64_t case_count = 24, rank_count /* 0: 1, 2 and 4 */, gpu_count = 1024;
/* Where ranks wait in vain, a short time; where they must not wait, a long one: what ends sooner was noticed. A short
 * one is enough for ranks to meet on a busy machine. */
enum { TIMEOUT_MS = 20000, SOON_MS = 12000, SHORT_MS = 3000, SHORT_DEVICE_MS = 8000 /* kernels are loaded in it */ };
enum { LATE_MS = 4000 /* after a short one */ };

static bool is_host(void) { return strcmp(spec, "host") == 0; }

static moet_handle *handle_open(int32_t local)
{
    char text[32];
    moet_handle *handle;
    snprintf(text, sizeof text, "%s", spec);
    if (strcmp(spec, "cuda") == 0) snprintf(text, sizeof text, "cuda:%d", local % (int32_t)gpu_count);
    TEST_OK(moet_open(NULL, text, &handle));
    return handle;
}

/* ---- cases ---- */

/* Whether the transport serves the case. */
static bool takes_asked(ep_case *c)
{
    const moet_problem *problem = &c->path.problem;
    c->options.returns = MOET_EP_RETURNS_SUMS;
    snprintf(c->options.transport, sizeof c->options.transport, "%s", asked);
    const int32_t local = problem->experts / c->options.ranks;
    if (strncmp(asked, "nccl_ep", 7) != 0) return true;
    if (problem->experts % 4) return false;
    return !strstr(asked, "expert_major") || (problem->prob != MOET_PROB_COMBINE && (local & (local - 1)) == 0);
}

static void run_cases(const moet_ep_options *as, int32_t local)
{
    moet_handle *handle = handle_open(local);
    uint64_t random = 77 + (uint64_t)as->ranks;
    int64_t served = 0;
    for (int64_t i = 0; i < case_count; i++) {
        ep_case c;
        ep_case_draw(&random, i, as->ranks, &c);
        if (asked && !takes_asked(&c)) {
            ep_case_free(&c);
            continue;
        }
        served++;
        c.options.rank = as->rank;
        c.options.timeout_ms = is_host() ? TIMEOUT_MS : 3 * TIMEOUT_MS;
        memcpy(c.options.rendezvous, as->rendezvous, sizeof c.options.rendezvous);
        memcpy(c.options.net, as->net, sizeof c.options.net);
        ep_case_check(&c, handle, &random, i);
        ep_case_free(&c);
    }
    moet_close(handle);
    if (as->ranks > 1) assert_true(served > 1);
}

/* ---- a process for each rank ---- */

typedef int (*rank_function)(const moet_ep_options *as);

/* Each rank's exit code; a rank that is not done in time is ended, which fails the test. */
static void spawn(int32_t ranks, rank_function function, int *codes)
{
    pid_t children[64];
    moet_ep_options as = {.ranks = ranks, .net = "socket"};
    int32_t port = 0;
    TEST_OK(moet_ep_comm_find_port(&port));
    snprintf(as.rendezvous, sizeof as.rendezvous, "127.0.0.1:%d", port);
    fflush(NULL);
    for (int32_t r = 0; r < ranks; r++) {
        as.rank = r;
        children[r] = fork();
        assert_true(children[r] >= 0);
        if (children[r] == 0) {
            alarm(is_host() ? 200 : 400); /* kernels are compiled */
            _exit(function(&as));
        }
    }
    for (int32_t r = 0; r < ranks; r++) {
        int state = 0;
        assert_int_equal(waitpid(children[r], &state, 0), children[r]);
        codes[r] = WIFEXITED(state) ? WEXITSTATUS(state) : 128 + WTERMSIG(state);
    }
}

/* cmocka's assertions end a test by a jump, which in a child must end the child. */
static const moet_ep_options *child_options;
static void cases_test(void **state)
{
    (void)state;
    run_cases(child_options, child_options->rank);
}
static int cases_of_rank(const moet_ep_options *as)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(cases_test)};
    child_options = as;
    return cmocka_run_group_tests_name("ranks", tests, NULL, NULL) != 0;
}

static void check_ranks(int32_t ranks)
{
    int codes[64];
    spawn(ranks, cases_of_rank, codes);
    for (int32_t r = 0; r < ranks; r++) {
        if (codes[r] != 0) test_fail("rank %d of %d ended with %d", r, ranks, codes[r]);
    }
}

static void test_bits(void **state)
{
    (void)state;
    if (rank_count > 0) {
        check_ranks((int32_t)rank_count);
        return;
    }
    check_ranks(1);
    check_ranks(2);
    check_ranks(4);
}

/* ---- errors ---- */

/* A small layer's status on one rank, which says what the error must hold; 0 as wanted, or 1. */
typedef struct expectation {
    moet_status status;
    const char *words;
    int64_t within_ms;
} expectation;

static int judge(const char *what, int32_t rank, moet_status status, expectation want, int64_t begin_ms)
{
    const int64_t took_ms = moet_ep_now_ms() - begin_ms;
    const bool is_right = status == want.status && (!want.words || strstr(moet_last_error(), want.words));
    if (is_right && took_ms < want.within_ms) return 0;
    fprintf(stderr, "%s: rank %d: %s after %lld ms (%s), %s with '%s' expected\n", what, rank, moet_status_name(status),
            (long long)took_ms, moet_last_error(), moet_status_name(want.status), want.words ? want.words : "");
    return 1;
}

static moet_ep_options small_options(const moet_ep_options *as, moet_problem *problem)
{
    moet_ep_options options;
    moet_problem_init(problem, MOET_OP_FFN, 12, 64, 32);
    moet_ep_options_init(&options, problem->numerics);
    options.rank = as->rank;
    options.ranks = as->ranks;
    options.max_tokens = 8;
    options.choices = 2;
    options.timeout_ms = TIMEOUT_MS;
    memcpy(options.rendezvous, as->rendezvous, sizeof options.rendezvous);
    return options;
}

static int check_create(const char *what, const moet_ep_options *options, const moet_problem *problem, expectation want)
{
    const int64_t begin_ms = moet_ep_now_ms();
    moet_handle *handle = NULL;
    moet_ep *ep = NULL;
    moet_status status = moet_open(NULL, "host", &handle);
    if (status == MOET_OK) status = moet_ep_create(handle, problem, options, &ep);
    const int code = judge(what, options->rank, status, want, begin_ms);
    moet_ep_destroy(ep);
    moet_close(handle);
    return code;
}

static int other_problem(const moet_ep_options *as)
{
    moet_problem problem;
    const moet_ep_options options = small_options(as, &problem);
    if (as->rank == 1) problem.bias = true;
    return check_create("another problem", &options, &problem,
                        (expectation){MOET_MISMATCH, "rank 0 has problem=", SOON_MS});
}

static int other_bound(const moet_ep_options *as)
{
    moet_problem problem;
    moet_ep_options options = small_options(as, &problem);
    if (as->rank == as->ranks - 1) options.max_tokens = 9;
    return check_create("another bound", &options, &problem, (expectation){MOET_MISMATCH, "max_tokens=9", SOON_MS});
}

static int other_count(const moet_ep_options *as)
{
    moet_problem problem;
    moet_ep_options options = small_options(as, &problem);
    if (as->rank == 1) options.ranks = 4;
    return check_create("another number of ranks", &options, &problem,
                        (expectation){MOET_MISMATCH, "started for", SOON_MS});
}

static int never_comes(const moet_ep_options *as)
{
    moet_problem problem;
    moet_ep_options options = small_options(as, &problem);
    options.timeout_ms = SHORT_MS;
    if (as->rank == 1) return 0;
    const char *words = as->rank == 0 ? "ranks did not come" : "get all ranks together";
    return check_create("a rank that never comes", &options, &problem,
                        (expectation){MOET_TIMEOUT, words, SHORT_MS + LATE_MS});
}

static int first_never_comes(const moet_ep_options *as)
{
    moet_problem problem;
    moet_ep_options options = small_options(as, &problem);
    options.timeout_ms = SHORT_MS;
    if (as->rank == 0) return 0;
    return check_create("rank 0 never comes", &options, &problem,
                        (expectation){MOET_TIMEOUT, "nobody listened", SHORT_MS + LATE_MS});
}

/* After two good runs, rank 1 does something else. */
enum deed { DIES, SLEEPS };
static int misbehaves(const moet_ep_options *as, const char *transport, enum deed deed)
{
    static const int32_t ids[16] = {0, 11, 2, 8, 0, 6, 11, 3};
    moet_problem problem;
    moet_ep_options options = small_options(as, &problem);
    moet_handle *handle = handle_open(as->rank);
    moet_device *device = handle->device;
    test_buffer numbers, id_buffer, out; /* zeros do for all that is read */
    moet_ep *ep = NULL;
    void *stream;
    TEST_OK(device->backend->stream_create(device, &stream));
    test_buffer_create(device, &numbers, NULL, 6 * 64 * 64 * 2);
    TEST_OK(device->backend->fill(device, test_buffer_inside(&numbers), 0, numbers.size_bytes));
    test_buffer_create(device, &id_buffer, ids, sizeof ids);
    test_buffer_create(device, &out, NULL, 8 * 64 * 2);
    const moet_ep_args args = {.x = test_buffer_inside(&numbers),
                               .ids = test_buffer_inside(&id_buffer),
                               .weights = test_buffer_inside(&numbers),
                               .up = test_buffer_inside(&numbers),
                               .down = test_buffer_inside(&numbers),
                               .out = test_buffer_inside(&out),
                               .tokens = 4,
                               .stream = stream};
    const int32_t short_ms = is_host() ? SHORT_MS : SHORT_DEVICE_MS;
    if (deed == SLEEPS) options.timeout_ms = short_ms;
    snprintf(options.transport, sizeof options.transport, "%s", transport);
    moet_status status = moet_ep_create(handle, &problem, &options, &ep);
    for (int32_t i = 0; i < 2 && status == MOET_OK; i++) {
        status = moet_ep_run(ep, &args);
        if (status == MOET_OK) status = moet_ep_wait(ep, stream);
    }
    if (status != MOET_OK)
        return judge("good runs", as->rank, status, (expectation){.status = MOET_OK}, moet_ep_now_ms());
    if (as->rank == 1) {
        if (deed == SLEEPS) poll(NULL, 0, short_ms + LATE_MS + 2000 /* more than is allowed */);
        _exit(0);
    }
    const int64_t begin_ms = moet_ep_now_ms();
    for (int32_t i = 0; i < 3 && status == MOET_OK; i++) { /* that it died may show a run later */
        status = moet_ep_run(ep, &args);
        if (status == MOET_OK) status = moet_ep_wait(ep, stream);
    }
    /* A rank that gives up ends, so that the others may see that first. */
    const expectation noticed = {MOET_LOST, "ended", deed == DIES ? SOON_MS : short_ms + LATE_MS};
    const expectation waited = {MOET_TIMEOUT, "waited", short_ms + LATE_MS};
    const expectation want = deed == DIES || status == MOET_LOST ? noticed : waited;
    const int code = judge(transport, as->rank, status, want, begin_ms);
    if (code == 0 && moet_ep_run(ep, &args) != MOET_INVALID) return 2; /* a broken layer says so */
    moet_ep_destroy(ep);
    moet_close(handle);
    return code;
}
static int dies_exchange(const moet_ep_options *as) { return misbehaves(as, "exchange", DIES); }
static int dies_lsa(const moet_ep_options *as) { return misbehaves(as, "lsa", DIES); }
static int sleeps_exchange(const moet_ep_options *as) { return misbehaves(as, "exchange", SLEEPS); }
static int sleeps_lsa(const moet_ep_options *as) { return misbehaves(as, "lsa", SLEEPS); }

static void test_errors(void **state)
{
    (void)state;
    static const rank_function functions[] = {other_problem, other_bound,       other_count,
                                              never_comes,   first_never_comes, dies_exchange,
                                              dies_lsa,      sleeps_exchange,   sleeps_lsa};
    for (int32_t ranks = 2; ranks <= (rank_count == 2 ? 2 : 3); ranks++) {
        for (int32_t i = 0; i < MOET_COUNT_OF(functions); i++) {
            int codes[64];
            if (ranks == 3 && (functions[i] == other_problem || functions[i] == other_count)) continue;
            spawn(ranks, functions[i], codes);
            for (int32_t r = 0; r < ranks; r++) {
                if (codes[r] != 0) test_fail("error %d: rank %d of %d ended with %d", i, r, ranks, codes[r]);
            }
        }
    }
}

/* ---- what is refused ---- */

static void test_refusals(void **state)
{
    (void)state;
    moet_problem problem;
    moet_handle *handle;
    moet_ep *ep = NULL;
    moet_ep_options good = small_options(&(moet_ep_options){.ranks = 1}, &problem), options;
    TEST_OK(moet_open(NULL, "host", &handle));
#define REFUSED(status, words, change)                                                                                 \
    do {                                                                                                               \
        options = good;                                                                                                \
        change;                                                                                                        \
        TEST_FAILS(status, words, moet_ep_create(handle, &problem, &options, &ep));                                    \
        assert_null(ep);                                                                                               \
    } while (0)
    REFUSED(MOET_INVALID, "ranks is 0", options.ranks = 0);
    REFUSED(MOET_INVALID, "rank is 1", options.rank = 1);
    REFUSED(MOET_INVALID, "choices is 17", options.choices = 17);
    REFUSED(MOET_INVALID, "chunks is 5", options.chunks = 5);
    REFUSED(MOET_INVALID, "max_tokens is 0", options.max_tokens = 0);
    REFUSED(MOET_INVALID, "no transport 'pigeon'", strcpy(options.transport, "pigeon"));
    REFUSED(MOET_INVALID, "no net 'string'", strcpy(options.net, "string"));
    REFUSED(MOET_INVALID, "12 experts cannot be spread over 5 ranks", options.ranks = 5);
    REFUSED(MOET_INVALID, "need a rendezvous", options.ranks = 2);
    REFUSED(MOET_INVALID, "must be HOST:PORT", options.ranks = 2; strcpy(options.rendezvous, "nowhere"));
    REFUSED(MOET_UNSUPPORTED, "sums only", strcpy(options.transport, "bound"));
    problem.prob = MOET_PROB_COMBINE;
    problem.combine = MOET_COMBINE_PADDLE;
    REFUSED(MOET_INVALID, "choose returns sums", (void)0);
    problem.op = MOET_OP_UP;
    problem.combine = MOET_COMBINE_EXACT;
    REFUSED(MOET_INVALID, NULL, (void)0);
#undef REFUSED
    moet_close(handle);
}

/* ---- launchers ---- */

static const char *const variables[] = {"RANK",
                                        "WORLD_SIZE",
                                        "LOCAL_RANK",
                                        "LOCAL_WORLD_SIZE",
                                        "MASTER_ADDR",
                                        "MASTER_PORT",
                                        "OMPI_COMM_WORLD_RANK",
                                        "OMPI_COMM_WORLD_SIZE",
                                        "OMPI_COMM_WORLD_LOCAL_RANK",
                                        "OMPI_COMM_WORLD_LOCAL_SIZE",
                                        "PMIX_NAMESPACE",
                                        "SLURM_PROCID",
                                        "SLURM_NTASKS",
                                        "SLURM_LOCALID",
                                        "SLURM_JOB_NUM_NODES",
                                        "SLURM_JOB_ID"};

static void launcher_environment(const char *text)
{
    char copy[256], *rest = copy;
    for (int32_t i = 0; i < MOET_COUNT_OF(variables); i++) unsetenv(variables[i]);
    snprintf(copy, sizeof copy, "%s", text);
    for (char *word = strtok_r(copy, " ", &rest); word; word = strtok_r(NULL, " ", &rest)) {
        char *value = strchr(word, '=');
        *value = '\0';
        setenv(word, value + 1, 1);
    }
}

static void test_launchers(void **state)
{
    (void)state;
    static const struct {
        const char *environment;
        int32_t rank, ranks, local;
        const char *rendezvous; /* NULL: any of 127.0.0.1 */
    } good[] = {
        {"RANK=3 WORLD_SIZE=4 LOCAL_RANK=1 MASTER_ADDR=node7 MASTER_PORT=1234", 3, 4, 1, "node7:1234"},
        {"OMPI_COMM_WORLD_RANK=1 OMPI_COMM_WORLD_SIZE=2 OMPI_COMM_WORLD_LOCAL_RANK=1 OMPI_COMM_WORLD_LOCAL_SIZE=2", 1,
         2, 1, "127.0.0.1:29500"},
        {"OMPI_COMM_WORLD_RANK=5 OMPI_COMM_WORLD_SIZE=8 OMPI_COMM_WORLD_LOCAL_RANK=1 OMPI_COMM_WORLD_LOCAL_SIZE=4", 5,
         8, 1, ""},
        {"SLURM_PROCID=0 SLURM_NTASKS=8 SLURM_LOCALID=0 SLURM_JOB_NUM_NODES=1 SLURM_JOB_ID=77", 0, 8, 0, NULL},
        {"SLURM_PROCID=4 SLURM_NTASKS=8 SLURM_LOCALID=0 SLURM_JOB_NUM_NODES=2 SLURM_JOB_ID=77 MASTER_ADDR=n1", 4, 8, 0,
         NULL},
    };
    static const struct {
        const char *environment;
        moet_status status;
        const char *words;
    } bad[] = {
        {"", MOET_NOT_FOUND, "no launcher"},
        {"RANK=4 WORLD_SIZE=4", MOET_INVALID, "RANK is '4'"},
        {"RANK=0 WORLD_SIZE=many", MOET_INVALID, "WORLD_SIZE is 'many'"},
        {"RANK=0 WORLD_SIZE=2 MASTER_PORT=99999", MOET_INVALID, "MASTER_PORT"},
    };
    for (int32_t i = 0; i < MOET_COUNT_OF(good); i++) {
        moet_ep_options options = {0};
        int32_t local = -1;
        launcher_environment(good[i].environment);
        TEST_OK(moet_ep_launcher(&options, &local));
        assert_int_equal(options.rank, good[i].rank);
        assert_int_equal(options.ranks, good[i].ranks);
        assert_int_equal(local, good[i].local);
        if (good[i].rendezvous)
            assert_string_equal(options.rendezvous, good[i].rendezvous);
        else
            assert_true(strchr(options.rendezvous, ':') != NULL);
    }
    for (int32_t i = 0; i < MOET_COUNT_OF(bad); i++) {
        moet_ep_options options = {.rank = 9}, before = options;
        launcher_environment(bad[i].environment);
        TEST_FAILS(bad[i].status, bad[i].words, moet_ep_launcher(&options, NULL));
        assert_memory_equal(&options, &before, sizeof options);
    }
    launcher_environment("");
}

int main(int argc, char **argv)
{
    const test_option options[] = {
        {"--device", NULL, &spec, NULL, NULL},      {"--cases", NULL, NULL, &case_count, NULL},
        {"--ranks", NULL, NULL, &rank_count, NULL}, {"--gpus", NULL, NULL, &gpu_count, NULL},
        {"--transport", NULL, &asked, NULL, NULL},
    };
    test_options_parse(argc, argv, options, MOET_COUNT_OF(options));
    signal(SIGPIPE, SIG_IGN);
    setenv("OMP_WAIT_POLICY", "passive", 0); /* ranks share the processors */
    moet_ep_options as = {.ranks = 1};
    int32_t local = 0;
    if (moet_ep_launcher(&as, &local) == MOET_OK) {                               /* one rank of a launcher's */
        if (getenv("OMPI_COMM_WORLD_RANK") && is_host()) as.rendezvous[0] = '\0'; /* by MPI */
        child_options = &as;
        const struct CMUnitTest tests[] = {cmocka_unit_test(cases_test)};
        return cmocka_run_group_tests_name("ep", tests, NULL, NULL);
    }
    if (asked) {
        const struct CMUnitTest bits[] = {cmocka_unit_test(test_bits)};
        return cmocka_run_group_tests_name("ep", bits, NULL, NULL);
    }
    /* Refusals start threads, which a process that forks must not have. */
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_launchers), cmocka_unit_test(test_bits),
                                       cmocka_unit_test(test_errors), cmocka_unit_test(test_refusals)};
    return cmocka_run_group_tests_name("ep", tests, NULL, NULL);
}

/* worker: the wire between a sweep and its worker, and that a process that dies costs its candidate alone. What
 * families can do to a sweep is test_isolation.sh's. */
#include "test.h"

#include <sys/socket.h>
#include <unistd.h>

#include "../bench/bench.h"
#include "../tuner/message.h"
#include "../tuner/worker.h"
#include "../tuner/worker_process.h"
#include "../tuner/worker_serve.h"

/* ---- messages ---- */

static void test_message_values(void **state)
{
    (void)state;
    moet_message m = {0};
    char text[8];
    size_t size_bytes;
    double number = 0;
    moet_message_put_int(&m, -5);
    moet_message_put_text(&m, "seven 7");
    moet_message_put_text(&m, "");
    moet_message_put_block(&m, "abc", 3);
    moet_message_put(&m, &(double){1.5}, sizeof(double));
    assert_false(m.failed);
    assert_int_equal(moet_message_take_int(&m), -5);
    moet_message_take_text(&m, text, sizeof text);
    assert_string_equal(text, "seven 7");
    moet_message_take_text(&m, text, sizeof text);
    assert_string_equal(text, "");
    const void *block = moet_message_take_block(&m, &size_bytes);
    assert_int_equal(size_bytes, 3);
    assert_memory_equal(block, "abc", 3);
    TEST_FAILS(MOET_MALFORMED, "a test: a message of", moet_message_end(&m, "a test")); /* something is left */
    moet_message_take(&m, &number, sizeof number);
    assert_true(number == 1.5);
    TEST_OK(moet_message_end(&m, "a test"));
    assert_int_equal(moet_message_take_int(&m), 0); /* nothing is left */
    TEST_FAILS(MOET_MALFORMED, "and more", moet_message_end(&m, "a test"));
    moet_message_release(&m);
}

static void test_message_lies(void **state)
{
    (void)state;
    char text[8] = "x";
    size_t size_bytes = 1;
    moet_message m = {0};
    moet_message_put_text(&m, "eight  8"); /* no room for its NUL */
    moet_message_take_text(&m, text, sizeof text);
    assert_true(m.failed);
    assert_string_equal(text, "");
    moet_message_release(&m);
    static const int64_t lengths[] = {-1, 5, INT64_MAX, INT64_MIN};
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        moet_message_put_int(&m, lengths[i]);
        moet_message_put(&m, "four", 4);
        assert_null(moet_message_take_block(&m, &size_bytes));
        assert_int_equal(size_bytes, 0);
        assert_true(m.failed);
        moet_message_release(&m);
    }
}

static void make_pair(int ends[2]) { assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0); }

static void test_message_socket(void **state)
{
    (void)state;
    int ends[2];
    uint32_t kind = 0;
    moet_message m = {0}, got = {0};
    make_pair(ends);
    TEST_FAILS(MOET_TIMEOUT, "", moet_message_receive(ends[1], moet_clock_ns() + 1000000, &kind, &got));
    moet_message_put_text(&m, "said before the end");
    TEST_OK(moet_message_send(ends[0], 17, &m));
    TEST_OK(moet_message_send(ends[0], 18, &(moet_message){0}));
    close(ends[0]);
    TEST_OK(moet_message_receive(ends[1], INT64_MAX, &kind, &got));
    assert_int_equal(kind, 17);
    assert_int_equal(got.size_bytes, m.size_bytes);
    assert_memory_equal(got.bytes, m.bytes, m.size_bytes);
    moet_message_release(&got);
    TEST_OK(moet_message_receive(ends[1], 0, &kind, &got)); /* what is there is in time, however late one looks */
    assert_int_equal(kind, 18);
    assert_int_equal(got.size_bytes, 0);
    TEST_FAILS(MOET_NOT_FOUND, "closed", moet_message_receive(ends[1], INT64_MAX, &kind, &got));
    TEST_FAILS(MOET_NOT_FOUND, "closed", moet_message_send(ends[1], 1, &m)); /* and no SIGPIPE */
    close(ends[1]);
    moet_message_release(&m);
}

static void test_message_cut(void **state)
{
    (void)state;
    moet_message m = {0}, got = {0};
    uint8_t wire[256];
    uint32_t kind = 99;
    int ends[2];
    moet_message_put_text(&m, "cut anywhere");
    make_pair(ends);
    TEST_OK(moet_message_send(ends[0], 3, &m));
    const ssize_t length = read(ends[1], wire, sizeof wire);
    assert_true(length > (ssize_t)m.size_bytes);
    close(ends[0]);
    close(ends[1]);
    for (ssize_t cut = 0; cut < length; cut++) {
        make_pair(ends);
        assert_int_equal(write(ends[0], wire, (size_t)cut), cut);
        close(ends[0]);
        TEST_FAILS(MOET_NOT_FOUND, NULL, moet_message_receive(ends[1], INT64_MAX, &kind, &got));
        assert_null(got.bytes);
        assert_int_equal(kind, 99);
        close(ends[1]);
    }
    /* A length that no message has, and what is no message. */
    const uint64_t most = MOET_MESSAGE_MOST + 1;
    memcpy(wire + 8, &most, sizeof most);
    for (int32_t i = 0; i < 2; i++) {
        make_pair(ends);
        assert_int_equal(write(ends[0], wire, (size_t)length), length);
        TEST_FAILS(MOET_MALFORMED, "no message", moet_message_receive(ends[1], INT64_MAX, &kind, &got));
        memset(wire, i, sizeof wire);
        close(ends[0]);
        close(ends[1]);
    }
    moet_message_release(&m);
}

/* Requests out of turn, unknown or cut short are refused, and the server goes on. */
static void test_server(void **state)
{
    (void)state;
    moet_server server = {0};
    moet_message body = {0}, reply = {0};
    for (uint32_t request = 0; request <= MOET_REQUEST_COUNT; request++) {
        TEST_FAILS(MOET_MALFORMED, NULL, moet_server_handle(&server, request, &body, &reply));
        assert_int_equal(reply.size_bytes, 0);
        moet_message_release(&body);
    }
    moet_message_put_text(&body, "host:99");
    TEST_FAILS(MOET_NOT_FOUND, "host", moet_server_handle(&server, MOET_REQUEST_OPEN, &body, &reply));
    moet_message_release(&body);
    moet_message_put_text(&body, "host");
    TEST_OK(moet_server_handle(&server, MOET_REQUEST_OPEN, &body, &reply));
    moet_message_release(&body);
    moet_message_release(&reply);
    TEST_FAILS(MOET_MALFORMED, "out of turn", moet_server_handle(&server, MOET_REQUEST_ROUND, &body, &reply));
    TEST_FAILS(MOET_MALFORMED, "begin", moet_server_handle(&server, MOET_REQUEST_BEGIN, &body, &reply));
    moet_server_release(&server);
}

/* ---- workers ---- */

static const int32_t counts[] = {20, 0, 33, 3};

static moet_worker *start(bool in_process)
{
    moet_worker *worker = NULL;
    moet_ceilings ceilings;
    moet_problem problem;
    const moet_worker_options options = {.device = "host", .seed = 7, .in_process = in_process};
    moet_problem_init(&problem, MOET_OP_UP, 4, 64, 32);
    TEST_OK(moet_worker_open(&options, &worker));
    assert_string_equal(moet_worker_info(worker)->backend, "host");
    TEST_OK(moet_worker_begin(worker, &ceilings));
    assert_true(ceilings.dense_flops_per_s > 0 && ceilings.read_bytes_per_s > 0);
    TEST_OK(moet_worker_set_workload(worker, &problem, counts, 0));
    return worker;
}

static int32_t add(moet_worker *worker, const char *text)
{
    moet_config config;
    int32_t subject = -1;
    TEST_OK(moet_config_parse(text, &config));
    TEST_OK(moet_worker_add_config(worker, &config, false, &subject));
    return subject;
}

static void run_rounds(moet_worker *worker, int32_t count)
{
    for (int32_t i = 0; i < count; i++) TEST_OK(moet_worker_round(worker));
}

static void test_same_answers(void **state)
{
    (void)state;
    moet_trial trials[2];
    for (int32_t i = 0; i < 2; i++) {
        moet_worker *worker = start(i == 1);
        TEST_OK(moet_worker_set_racing(worker, true));
        const int32_t good = add(worker, "faulty:fault=none"), wrong = add(worker, "faulty:fault=wrong");
        assert_true(moet_worker_active(worker, good) && !moet_worker_active(worker, wrong));
        assert_true(moet_worker_launch_ns(worker, good) > 0);
        TEST_OK(moet_worker_launch_again(worker, good));
        TEST_OK(moet_worker_launch_again(worker, wrong)); /* which is nothing */
        run_rounds(worker, 3);
        TEST_OK(moet_worker_trial(worker, good, &trials[i]));
        assert_int_equal(trials[i].status, MOET_TRIAL_OK);
        assert_int_equal(trials[i].sample_count, 3);
        assert_true(trials[i].median_ns > 0 && trials[i].efficiency > 0);
        assert_int_equal(trials[i].median_ns, moet_worker_median_ns(worker, good));
        for (int32_t r = 0; r < 3; r++) {
            assert_int_equal(trials[i].samples[r].round, r);
            assert_true(trials[i].samples[r].dense_ns > 0 && trials[i].samples[r].copy_ns > 0);
        }
        moet_trial bad;
        TEST_OK(moet_worker_trial(worker, wrong, &bad));
        assert_int_equal(bad.status, MOET_TRIAL_WRONG);
        TEST_CONTAINS(bad.reason, "1 of 3584 elements are wrong");
        moet_trial_release(&bad);
        moet_worker_clear_samples(worker);
        TEST_OK(moet_worker_keep_launch(worker, good));
        assert_int_equal(moet_worker_median_ns(worker, good), moet_worker_launch_ns(worker, good));
        moet_worker_retire(worker, good);
        assert_false(moet_worker_active(worker, good));
        run_rounds(worker, 1);
        assert_int_equal(moet_worker_restarts(worker), 0);
        moet_worker_close(worker);
    }
    assert_string_equal(trials[0].bit_class, trials[1].bit_class);
    assert_true(trials[0].error == trials[1].error);
    moet_trial_release(&trials[0]);
    moet_trial_release(&trials[1]);
}

/* A process that dies in the middle of a race: what was measured stays, the others are measured on. */
static void test_samples_stay(void **state)
{
    (void)state;
    char folder[256], file[300];
    moet_trial trial;
    test_folder_make(folder);
    snprintf(file, sizeof file, "%s/now", folder);
    setenv("MOET_FAULT_FILE", file, 1);
    moet_worker *worker = start(false);
    const int32_t first = add(worker, "faulty:fault=none"), told = add(worker, "faulty:fault=told"),
                  second = add(worker, "host_tile:mr=4,nr=16,kc=256,nc=64,schedule=static");
    run_rounds(worker, 2);
    const int64_t median_ns = moet_worker_median_ns(worker, first);
    test_file_write(file, "", 0);
    run_rounds(worker, 1);
    assert_int_equal(test_file_count(folder), 0); /* it was the one to take it */
    assert_int_equal(moet_worker_restarts(worker), 1);
    assert_true(moet_worker_active(worker, first) && moet_worker_active(worker, second));
    assert_false(moet_worker_active(worker, told));
    TEST_OK(moet_worker_trial(worker, told, &trial));
    assert_int_equal(trial.status, MOET_TRIAL_FAILED);
    TEST_CONTAINS(trial.reason, "was killed by signal 11");
    TEST_CONTAINS(trial.reason, "while timing");
    moet_trial_release(&trial);
    TEST_OK(moet_worker_trial(worker, first, &trial));
    assert_int_equal(trial.sample_count, 3);
    for (int32_t r = 0; r < 3; r++) assert_int_equal(trial.samples[r].round, r);
    const int64_t two[] = {trial.samples[0].time_ns, trial.samples[1].time_ns};
    assert_int_equal(moet_stats_median(two, 2), median_ns);
    moet_trial_release(&trial);
    /* Another loss, of the process that came after: in a candidate's first launch. */
    const int32_t crash = add(worker, "faulty:fault=crash");
    assert_false(moet_worker_active(worker, crash));
    run_rounds(worker, 1);
    assert_int_equal(moet_worker_restarts(worker), 2);
    TEST_OK(moet_worker_trial(worker, second, &trial));
    assert_int_equal(trial.sample_count, 4);
    assert_int_equal(trial.status, MOET_TRIAL_OK);
    moet_trial_release(&trial);
    moet_worker_close(worker);
    test_folder_remove(folder);
}

static void test_refusals(void **state)
{
    (void)state;
    moet_worker *worker = NULL;
    moet_worker_options options = {.device = "host:99"};
    TEST_FAILS(MOET_NOT_FOUND, "host:99", moet_worker_open(&options, &worker));
    options.device = "nothing";
    TEST_FAILS(MOET_INVALID, "nothing", moet_worker_open(&options, &worker));
    assert_null(worker);
    moet_worker_close(NULL);
    worker = start(false);
    /* An error that is no candidate's is the caller's, and the worker is of use after it. */
    moet_problem problem;
    moet_problem_init(&problem, MOET_OP_UP, 4, 64, 33);
    TEST_FAILS(MOET_INVALID, NULL, moet_worker_set_workload(worker, &problem, counts, 0));
    moet_problem_init(&problem, MOET_OP_UP, 4, 64, 32);
    TEST_OK(moet_worker_set_workload(worker, &problem, counts, 0));
    add(worker, "faulty:fault=none");
    run_rounds(worker, 1);
    moet_worker_close(worker);
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], MOET_WORKER_WORD) == 0) return moet_worker_main(argc - 1, argv + 1);
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_message_values), cmocka_unit_test(test_message_lies),
        cmocka_unit_test(test_message_socket), cmocka_unit_test(test_message_cut),
        cmocka_unit_test(test_server),         cmocka_unit_test(test_same_answers),
        cmocka_unit_test(test_samples_stay),   cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

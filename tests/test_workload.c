/* The text form of workloads, and the models file; problems as options. */
#include "test.h"

#include <math.h>

#include "../tuner/problem_options.h"
#include "../tuner/workload.h"

static const char good[] = "{\"name\":\"deepseek-v3/ep32\",\"experts\":4,\"hidden\":64,\"inter\":32,\"rows\":10,"
                           "\"skew\":\"zipf:1\",\"counts\":[7,0,2,1]}";

static moet_status parse(const char *line, moet_workload *workload)
{
    return moet_workload_parse(line, strlen(line), "file.jsonl:3", workload);
}

static void test_good(void **state)
{
    (void)state;
    moet_workload w;
    TEST_OK(parse(good, &w));
    assert_string_equal(w.name, "deepseek-v3/ep32");
    assert_int_equal(w.experts, 4);
    assert_int_equal(w.hidden, 64);
    assert_int_equal(w.inter, 32);
    assert_int_equal(w.rows, 10);
    assert_string_equal(w.skew, "zipf:1");
    const int32_t counts[] = {7, 0, 2, 1};
    assert_memory_equal(w.counts, counts, sizeof counts);
    char *line;
    TEST_OK(moet_workload_format(&w, &line));
    assert_string_equal(line, good);
    free(line);
    moet_workload_release(&w);
    /* Space and the order of members are free. */
    TEST_OK(parse(" { \"counts\" : [ 7 , 0 , 2 , 1 ] , \"skew\":\"s\",\"rows\":10,\"inter\":32,\"hidden\":64,"
                  "\"experts\":4,\"name\":\"n\" } \r\n",
                  &w));
    moet_workload_release(&w);
}

static void test_round_trip(void **state)
{
    (void)state;
    uint64_t random = 3;
    for (int32_t i = 0; i < 3000; i++) {
        moet_workload w = {.experts = (int32_t)test_between(&random, 1, 1 << test_between(&random, 0, 10)),
                           .hidden = (int32_t)test_between(&random, 1, MOET_MAX_DIM),
                           .inter = (int32_t)test_between(&random, 1, MOET_MAX_DIM),
                           .seed = test_random(&random) >> test_between(&random, 11, 63)},
                      back;
        /* Names of any printable UTF-8. */
        static const char *const pieces[] = {"a", "Z", "/", "\"", "\\", "\xc3\xa9", "\xe2\x82\xac", "\xf0\x9f\x98\x80",
                                             " ", "{"};
        for (int32_t p = 0, n = (int32_t)test_between(&random, 1, 20); p < n; p++)
            strcat(w.name, pieces[test_between(&random, 0, MOET_COUNT_OF(pieces) - 1)]);
        snprintf(w.skew, sizeof w.skew, "zipf:%d", (int)test_between(&random, 0, 9));
        w.counts = calloc((size_t)w.experts, sizeof *w.counts);
        assert_non_null(w.counts);
        int32_t most = 1;
        for (int32_t e = 0; e < w.experts; e++) {
            w.counts[e] = (int32_t)test_between(&random, 0, 1000);
            w.rows += w.counts[e];
            if (w.counts[e] > most) most = w.counts[e];
        }
        if (w.rows == 0) w.rows = w.counts[0] = 1;
        if (test_between(&random, 0, 1)) w.tokens = most + test_between(&random, 0, 5);
        if (test_between(&random, 0, 1)) w.weight = ldexp((double)test_between(&random, 1, 1 << 30), -(i % 90));
        char *line, *again;
        TEST_OK(moet_workload_format(&w, &line));
        assert_null(strchr(line, '\n'));
        TEST_OK(parse(line, &back));
        assert_string_equal(w.name, back.name);
        assert_string_equal(w.skew, back.skew);
        assert_int_equal(w.rows, back.rows);
        assert_int_equal(w.tokens, back.tokens);
        assert_true(w.seed == back.seed);
        assert_true(w.weight == back.weight);
        assert_int_equal(w.hidden, back.hidden);
        assert_int_equal(w.inter, back.inter);
        assert_memory_equal(w.counts, back.counts, (size_t)w.experts * sizeof *w.counts);
        TEST_OK(moet_workload_format(&back, &again));
        assert_string_equal(line, again);
        free(line);
        free(again);
        moet_workload_release(&w);
        moet_workload_release(&back);
    }
}

static void refuse_line(const char *line, const char *words)
{
    moet_workload w, before;
    memset(&w, 0x5a, sizeof w);
    memcpy(&before, &w, sizeof w);
    TEST_FAILS(MOET_MALFORMED, words, parse(line, &w));
    TEST_CONTAINS(moet_last_error(), "file.jsonl:3");
    assert_memory_equal(&w, &before, sizeof w);
}

static void refuse(const char *from, const char *to, const char *words)
{
    char line[1000];
    const char *at = strstr(good, from);
    assert_non_null(at);
    snprintf(line, sizeof line, "%.*s%s%s", (int)(at - good), good, to, at + strlen(from));
    refuse_line(line, words);
}

static void test_malformed(void **state)
{
    (void)state;
    refuse_line("", NULL);
    refuse_line("null", NULL);
    refuse_line("[]", NULL);
    refuse_line("{}", "\"name\" is missing");
    refuse("}", "", NULL);
    refuse("}", "}}", NULL);
    refuse("}", "} {}", "after");
    refuse("}", ",\"colour\":1}", "colour");
    refuse("\"rows\":10", "\"rows\":10,\"rows\":10", "twice");
    refuse("\"rows\":10,", "", "\"rows\" is missing");
    refuse("\"rows\":10", "\"rows\":11", "sum to 10");
    refuse("\"rows\":10", "\"rows\":0", "rows");
    refuse("\"rows\":10", "\"rows\":-10", "rows");
    refuse("\"rows\":10", "\"rows\":1e1", "1e1");
    refuse("\"rows\":10", "\"rows\":10.0", "10.0");
    refuse("\"rows\":10", "\"rows\":010", "010");
    refuse("\"rows\":10", "\"rows\":\"10\"", "rows");
    refuse("\"rows\":10", "\"rows\":null", "rows");
    refuse("\"rows\":10", "\"rows\":1048577", "1048577");
    refuse("\"rows\":10", "\"rows\":99999999999999999999999", "999");
    refuse("\"experts\":4", "\"experts\":0", "experts");
    refuse("\"experts\":4", "\"experts\":5", "4 numbers for 5 experts");
    refuse("\"experts\":4", "\"experts\":1025", "1025");
    refuse("\"experts\":4", "\"experts\":4294967300", "experts");
    refuse("\"hidden\":64", "\"hidden\":-64", "hidden");
    refuse("\"hidden\":64", "\"hidden\":1048577", "hidden");
    refuse("\"inter\":32", "\"inter\":[32]", "inter");
    refuse("[7,0,2,1]", "[7,0,2,-1]", "counts[3]");
    refuse("[7,0,2,1]", "[7,0,2,1,0]", "5 numbers");
    refuse("[7,0,2,1]", "[7,0,3]", "3 numbers");
    refuse("[7,0,2,1]", "[7,0,2,\"1\"]", "counts[3]");
    refuse("[7,0,2,1]", "[7,0,2,2147483649]", "counts[3]");
    refuse("[7,0,2,1]", "{}", "array");
    refuse("[7,0,2,1]", "7", "array");
    refuse("\"skew\"", "\"tokens\":6,\"skew\"", "more than the 6 tokens");
    refuse("\"skew\"", "\"tokens\":0,\"skew\"", "tokens");
    refuse("\"skew\"", "\"weight\":0,\"skew\"", "weight");
    refuse("\"skew\"", "\"weight\":-0.5,\"skew\"", "weight");
    refuse("\"skew\"", "\"weight\":.5,\"skew\"", NULL);
    refuse("\"skew\"", "\"weight\":1.,\"skew\"", "weight");
    refuse("\"skew\"", "\"weight\":01,\"skew\"", "weight");
    refuse("\"skew\"", "\"weight\":1e,\"skew\"", "weight");
    refuse("\"skew\"", "\"weight\":1e999,\"skew\"", "weight");
    refuse("\"skew\"", "\"weight\":\"1\",\"skew\"", "weight");
    refuse("\"skew\"", "\"seed\":-1,\"skew\"", "seed");
    refuse("zipf:1", "", "skew");
    refuse("deepseek-v3/ep32", "", "name");
    refuse("deepseek-v3/ep32", "a\\u0000b", "NUL");
    refuse("deepseek-v3/ep32", "a\tb", "control character");
    refuse("deepseek-v3/ep32", "a\\nb", "control character");
    refuse("deepseek-v3/ep32", "a\xc2\x85", "control character 0x85");
    refuse("deepseek-v3/ep32", "a\xc2\x9b", "control character 0x9b");
    refuse("deepseek-v3/ep32", "a\xe2\x80\xae", "control character 0x202e");
    refuse("deepseek-v3/ep32", "a\\u202a", "control character 0x202a");
    refuse("zipf:1", "a\xe2\x81\xa6", "control character 0x2066");
    refuse("zipf:1", "a\xe2\x80\x8f", "control character 0x200f");
    refuse("zipf:1", "a\xe2\x80\xa8", "control character 0x2028");
    refuse("deepseek-v3/ep32", "a\xe2\x81\xa9", "control character 0x2069");
    refuse("deepseek-v3/ep32", "\xff", "UTF-8");
    refuse("deepseek-v3/ep32", "\xc0\x80", "UTF-8");
    refuse("deepseek-v3/ep32", "\xed\xa0\x80", "UTF-8");
    refuse("deepseek-v3/ep32",
           "a-name-that-is-much-longer-than-what-a-name-may-be-in-any-file-of-workloads-that-this-program-reads-at-all-"
           "today",
           "name");
    refuse("{", "{'", NULL);
    refuse("[7,0,2,1]", "[7,0,2,NaN]", NULL);
    refuse("[7,0,2,1]", "[7,0,2,1", NULL);
}

static void test_truncated(void **state)
{
    (void)state;
    moet_workload w;
    for (size_t length = 0; length < sizeof good - 1; length++) {
        char *cut = malloc(length ? length : 1); /* its own memory: a read past the end shows under a sanitizer */
        assert_non_null(cut);
        memcpy(cut, good, length);
        TEST_FAILS(MOET_MALFORMED, "file.jsonl:3", moet_workload_parse(cut, length, "file.jsonl:3", &w));
        free(cut);
    }
}

/* One byte changed: refused, or what it says comes back from its own text. */
static void test_one_byte_changed(void **state)
{
    (void)state;
    char line[sizeof good];
    for (size_t at = 0; at < sizeof good - 1; at++) {
        for (int32_t byte = 0; byte < 256; byte++) {
            moet_workload w, back;
            char *text;
            memcpy(line, good, sizeof good);
            line[at] = (char)byte;
            if (moet_workload_parse(line, sizeof good - 1, "x:1", &w) != MOET_OK) continue;
            TEST_OK(moet_workload_format(&w, &text));
            TEST_OK(parse(text, &back));
            assert_string_equal(w.name, back.name);
            assert_int_equal(w.rows, back.rows);
            free(text);
            moet_workload_release(&w);
            moet_workload_release(&back);
        }
    }
}

static void test_lists_and_files(void **state)
{
    (void)state;
    char folder[256], path[300], text[2000];
    moet_workloads list = {0};
    test_folder_make(folder);
    snprintf(path, sizeof path, "%s/w.jsonl", folder);
    snprintf(text, sizeof text, "%s\n\n  \n%s", good, good); /* blank lines; no newline at the end */
    test_file_write(path, text, strlen(text));
    TEST_OK(moet_workloads_read(path, &list));
    assert_int_equal(list.count, 2);
    moet_workload copy;
    TEST_OK(moet_workload_copy(&list.items[1], &copy));
    assert_ptr_not_equal(copy.counts, list.items[1].counts);
    assert_int_equal(copy.counts[0], 7);
    TEST_OK(moet_workloads_add(&list, &copy));
    assert_null(copy.counts); /* the list's now */
    assert_int_equal(list.count, 3);
    int32_t before = list.count;
    /* All or nothing, naming file and line. */
    snprintf(text, sizeof text, "%s\n\n%s\n{\"name\":\"x\"", good, good);
    test_file_write(path, text, strlen(text));
    char where[320];
    snprintf(where, sizeof where, "%s:4", path);
    TEST_FAILS(MOET_MALFORMED, where, moet_workloads_read(path, &list));
    assert_int_equal(list.count, before);
    test_file_write(path, "a\0b\n", 4);
    TEST_FAILS(MOET_MALFORMED, ":1", moet_workloads_read(path, &list));
    TEST_FAILS(MOET_NOT_FOUND, "none.jsonl", moet_workloads_read("/tmp/moet-test/none.jsonl", &list));
    moet_status status = moet_workloads_read(folder, &list);
    assert_true(status != MOET_OK);
    TEST_CONTAINS(moet_last_error(), folder);
    assert_int_equal(list.count, before);
    moet_workloads_release(&list);
    moet_workloads_release(&list); /* empty again */
    test_folder_remove(folder);
}

static void test_models(void **state)
{
    (void)state;
    assert_true(moet_model_count() >= 18);
    for (int32_t i = 0; i < moet_model_count(); i++) {
        moet_model model, same;
        TEST_OK(moet_model_at(i, &model));
        TEST_OK(moet_model_find(model.name, &same));
        assert_string_equal(model.name, same.name);
        assert_true(model.experts >= 2 && model.top_k >= 1 && model.top_k <= model.experts && model.layers >= 1);
        moet_problem problem;
        for (int32_t op = 0; op < MOET_OP_COUNT; op++) {
            moet_problem_init(&problem, (moet_op)op, model.experts, model.hidden, model.inter);
            TEST_OK(moet_problem_validate(&problem));
        }
    }
    moet_model model;
    TEST_OK(moet_model_find("deepseek-v3", &model));
    assert_int_equal(model.experts, 256);
    assert_int_equal(model.top_k, 8);
    assert_int_equal(model.hidden, 7168);
    assert_int_equal(model.inter, 2048);
    TEST_FAILS(MOET_NOT_FOUND, "deepseek-v3", moet_model_find("deepseek-w3", &model));
    TEST_FAILS(MOET_NOT_FOUND, NULL, moet_model_find("", &model));
}

/* A clamp is printed so that the option takes it, and reads back. */
static void test_clamp_option(void **state)
{
    (void)state;
    static const double clamps[] = {7, 1.5, 0.00001, 1e6, 123456.789, 1.1920929e-7, 0.1, 1e-30};
    for (int32_t i = 0; i < MOET_COUNT_OF(clamps); i++) {
        char text[MOET_PROBLEM_OPTIONS_SIZE];
        double value = 0;
        moet_problem problem;
        moet_problem_init(&problem, MOET_OP_FFN, 4, 64, 32);
        problem.activation = MOET_ACTIVATION_SWIGLU_CLAMP;
        problem.clamp = clamps[i];
        moet_problem_options_format(&problem, text);
        const char *clamp = strstr(text, " --clamp ");
        assert_non_null(clamp);
        TEST_OK(moet_parse_decimal(clamp + strlen(" --clamp "), "--clamp", 0, 1e6, &value));
        assert_true(value == clamps[i]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_good),
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_malformed),
        cmocka_unit_test(test_truncated),
        cmocka_unit_test(test_one_byte_changed),
        cmocka_unit_test(test_lists_and_files),
        cmocka_unit_test(test_models),
        cmocka_unit_test(test_clamp_option),
    };
    return cmocka_run_group_tests_name("workload", tests, NULL, NULL);
}

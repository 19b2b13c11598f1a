/* Traces of every format, their split over ranks, and the workloads that stand for many. */
#include "test.h"

#include <math.h>

#include "../tuner/import.h"
#include "../tuner/sweep.h"

static char folder[256];

static int group_open(void **state)
{
    (void)state;
    test_folder_make(folder);
    return 0;
}

static int group_close(void **state)
{
    (void)state;
    test_folder_remove(folder);
    return 0;
}

static moet_status read_bytes(const char *name, const void *bytes, size_t size_bytes, int32_t experts,
                              moet_trace *trace)
{
    char path[300];
    moet_trace_format format = MOET_TRACE_AUTO;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    test_file_write(path, bytes, size_bytes);
    return moet_trace_read(path, experts, &format, trace);
}

static moet_status read_text(const char *name, const char *text, moet_trace *trace)
{
    return read_bytes(name, text, strlen(text), 0, trace);
}

/* Two layers of four experts, in step 0 or (lines without a step) steps 0 and 1. */
static const int64_t expected[2][4] = {{5, 0, 0, 7}, {0, 9, 1, 0}};

static void is_expected(moet_trace *trace)
{
    assert_int_equal(trace->experts, 4);
    assert_int_equal(trace->count, 2);
    assert_memory_equal(trace->counts, expected, sizeof expected);
    moet_trace_release(trace);
}

static void test_texts(void **state)
{
    (void)state;
    moet_trace t = {0};
    TEST_OK(read_text("long.csv",
                      "count,expert,note,layer,step\r\n9,1,x,1,0\r\n1,2,,1,0\r\n\r\n7,3,x,0,0\r\n5,0,x,0,0\r\n", &t));
    assert_true(t.passes[0].layer == 0 && t.passes[1].layer == 1 && t.passes[1].step == 0);
    is_expected(&t);
    TEST_OK(read_text("wide.csv", "\xef\xbb\xbfstep, layer, e1, e0, e2, e3\n3,8,0,5,0,7\n3,9,9,0,1,0", &t));
    assert_true(t.passes[0].step == 3 && t.passes[0].layer == 8 && t.passes[1].layer == 9);
    is_expected(&t);
    TEST_OK(read_text("wide.txt", "e0,e1,e2,e3\n5,0,0,7\n0,9,1,0\n", &t));
    assert_true(t.passes[0].step == 0 && t.passes[1].step == 1);
    is_expected(&t);
    /* In quotes, which may hold commas, and as floats that are whole. */
    TEST_OK(read_text("quoted.csv",
                      "\"count\",\"expert\" , \"note\",layer,\"step\"\r\n\"9\",1,\"a, \"\"b\"\"\",\"1.0\",0\r\n"
                      "1.00,2,6\" or so,1,0\r\n\"7\",\" 3 \",\"\",0,0\r\n5.,0.0,\"\"\"\",0,\"0\"\r\n",
                      &t));
    is_expected(&t);
    TEST_OK(read_text("lines.jsonl",
                      "{\"step\":4,\"layer\":2,\"counts\":[5,0,0,7],\"more\":[1]}\n\n"
                      "{\"counts\":[0,9.0,1,0]}",
                      &t));
    assert_true(t.passes[0].step == 4 && t.passes[0].layer == 2 && t.passes[1].step == 1 && t.passes[1].layer == 0);
    is_expected(&t);
    static const char *const objects[] = {
        "{\"rank\":0,\"logical_count\":[[[5,0,0,7],[0,9,1,0]]]}\n",
        "{\n \"logical_count\": [[5,0,0,7],\n [0,9,1,0]]\n}\n",
        "{\"global_expert_load_window\":[[5,0,0,7],[0,9,1,0]]}",
        "{\"counts\":[[[5,0,0,7],[0,9,1,0]]]}",
        "[[5,0,0,7],[0,9,1,0]]",
    };
    for (int32_t i = 0; i < MOET_COUNT_OF(objects); i++) {
        TEST_OK(read_text("object.json", objects[i], &t));
        is_expected(&t);
    }
    TEST_OK(read_text("one.json", "{\"logical_count\":[1,2,3]}", &t));
    assert_int_equal(t.count, 1);
    assert_int_equal(t.experts, 3);
    moet_trace_release(&t);
    /* Experts without a line are known by their number only. */
    TEST_OK(read_bytes("few.csv", "expert,count\n1,4\n", 17, 8, &t));
    assert_int_equal(t.experts, 8);
    moet_trace_release(&t);
    moet_trace_format format = MOET_TRACE_AUTO;
    char path[300];
    static const char workload[] = "{\"name\":\"a\",\"experts\":1,\"hidden\":8,\"inter\":8,\"rows\":1,\"skew\":\"s\","
                                   "\"counts\":[1]}\n";
    snprintf(path, sizeof path, "%s/workloads.jsonl", folder);
    test_file_write(path, workload, strlen(workload));
    TEST_OK(moet_trace_read(path, 0, &format, &t));
    assert_int_equal(format, MOET_TRACE_WORKLOADS);
}

/* A .npy file of `count` items. */
static moet_status read_npy(const char *descr, const char *shape, const void *data, size_t data_bytes, moet_trace *t)
{
    char bytes[512] = "\x93NUMPY\x01";
    const int length =
        snprintf(bytes + 10, 200, "{'descr': '%s', 'fortran_order': False, 'shape': %s, }\n", descr, shape);
    bytes[8] = (char)length;
    memcpy(bytes + 10 + length, data, data_bytes);
    return read_bytes("a.npy", bytes, (size_t)(10 + length) + data_bytes, 0, t);
}

static void test_npy(void **state)
{
    (void)state;
    moet_trace t = {0};
    int32_t i32[8];
    uint8_t u8[8];
    float f32[8];
    double f64[8];
    for (int32_t i = 0; i < 8; i++) {
        const int64_t count = expected[i / 4][i % 4];
        i32[i] = (int32_t)count;
        u8[i] = (uint8_t)count;
        f32[i] = (float)count;
        f64[i] = (double)count;
    }
    TEST_OK(read_npy("<i8", "(1, 2, 4)", expected, sizeof expected, &t));
    is_expected(&t);
    TEST_OK(read_npy("<i4", "(2, 4)", i32, sizeof i32, &t));
    assert_true(t.passes[0].step == 0 && t.passes[1].step == 0 && t.passes[1].layer == 1);
    is_expected(&t);
    TEST_OK(read_npy("|u1", "(2, 1, 4)", u8, sizeof u8, &t));
    assert_true(t.passes[1].step == 1 && t.passes[1].layer == 0);
    is_expected(&t);
    TEST_OK(read_npy("<f4", "(2, 4)", f32, sizeof f32, &t));
    is_expected(&t);
    TEST_OK(read_npy("<f8", "(2, 4)", f64, sizeof f64, &t));
    is_expected(&t);
    TEST_OK(read_npy("<i4", "(8,)", i32, sizeof i32, &t));
    assert_int_equal(t.experts, 8);
    moet_trace_release(&t);
    f32[3] = 0.5f;
    TEST_FAILS(MOET_MALFORMED, "expert 3 is 0.5", read_npy("<f4", "(2, 4)", f32, sizeof f32, &t));
    f64[0] = NAN;
    TEST_FAILS(MOET_MALFORMED, "step 0, layer 0", read_npy("<f8", "(2, 4)", f64, sizeof f64, &t));
    i32[5] = -1;
    TEST_FAILS(MOET_MALFORMED, "layer 1: the count of expert 1 is -1", read_npy("<i4", "(2, 4)", i32, sizeof i32, &t));
    TEST_FAILS(MOET_MALFORMED, "float16", read_npy("<f2", "(4,)", i32, 8, &t));
    TEST_FAILS(MOET_MALFORMED, "[1, 1, 1, 8]", read_npy("|u1", "(1, 1, 1, 8)", u8, 8, &t));
    TEST_FAILS(MOET_MALFORMED, "[0, 4]", read_npy("|u1", "(0, 4)", u8, 0, &t));
    TEST_FAILS(MOET_MALFORMED, "its shape wants 8", read_npy("|u1", "(2, 4)", u8, 7, &t));
    assert_null(t.counts);
}

static void test_malformed(void **state)
{
    (void)state;
    static const struct {
        const char *name, *text, *words;
    } cases[] = {
        {"a.csv", "", "a.csv is empty"},
        {"a.csv", "hello\n", "a.csv:1: the first line must name columns"},
        {"a.csv", "step,layer,expert\n0,0,0\n", "a.csv:1"},
        {"a.csv", "step,layer,expert,count\n", "holds no counts"},
        {"a.csv", "step,layer,expert,count\n0,0,0,1\n0,0,1,-2\n", "a.csv:3: column 4"},
        {"a.csv", "step,layer,expert,count\n0,0,0,1.5\n", "'1.5'"},
        {"a.csv", "step,layer,expert,count\n0,0,0,\"1.50\"\n", "'1.50'"},
        {"a.csv", "step,layer,expert,count\n0,0,0,.0\n", "'.0'"},
        {"a.csv", "step,layer,expert,count\n0,0,0,\"5\n", "'\"5'"},
        {"a.csv", "step,layer,expert,count\n0,0,0,\"5\"1\n", "'\"5\"1'"},
        {"a.csv", "step,layer,expert,count\n0,0,0,\"\"\n", "''"},
        {"a.csv", "step,layer,expert,count\n0,0,0\n", "a.csv:2: 3 fields"},
        {"a.csv", "step,layer,expert,count\n0,0,0,1,9\n", "a.csv:2: more than the 4"},
        {"a.csv", "step,layer,expert,count\n0,0,0,1\n1,0,0,1\n0,0,0,4\n", "twice, in line 2"},
        {"a.csv", "step,step,expert,count\n0,0,0,1\n", "same name"},
        {"a.csv", "step,e0,e2\n0,1,2\n", "e1 is missing"},
        {"a.csv", "e0,e60000\n1,2\n", "e60000"},
        {"a.jsonl", "{\"counts\":[1,2]}\n{\"counts\":[1,2,3]}\n", "a.jsonl:2: 3 experts"},
        {"a.jsonl", "{\"counts\":[1,2]}\n{\"counts\":[1,", "a.jsonl:2: column"},
        {"a.jsonl", "{\"counts\":[1,2]}\n{\"counts\":[1,2]} x", "a.jsonl:2: column"},
        {"a.jsonl", "{\"counts\":[1,2]}\n[1]\n", "a.jsonl:2: no JSON object"},
        {"a.jsonl", "{\"counts\":[1,2]}\n{\"step\":1}\n", "\"counts\" is missing"},
        {"a.jsonl", "{\"counts\":[1,0.5]}\n", "expert 1 is 0.5"},
        {"a.jsonl", "{\"counts\":[1,\"2\"]}\n", "expert 1 is no number"},
        {"a.jsonl", "{\"counts\":[]}\n", "0 experts"},
        {"a.jsonl", "{\"counts\":7}\n", "array"},
        {"a.jsonl", "{\"step\":-1,\"counts\":[1]}\n", "\"step\""},
        {"a.jsonl", "{\"layer\":0.5,\"counts\":[1]}\n", "\"layer\""},
        {"a.json", "{\"logical_count\":", "a.json: byte"},
        {"a.json", "{\"something\":[1]}", "no member \"logical_count\""},
        {"a.json", "{\"logical_count\":[[[[1]]]]}", "[steps, layers, experts]"},
        {"a.json", "{\"logical_count\":[[[1]],2]}", "step 1"},
        {"a.json", "{\"logical_count\":[[1],2]}", "layer 1"},
    };
    moet_trace t = {0};
    for (int32_t i = 0; i < MOET_COUNT_OF(cases); i++)
        TEST_FAILS(MOET_MALFORMED, cases[i].words, read_text(cases[i].name, cases[i].text, &t));
    TEST_FAILS(MOET_MALFORMED, "NUL", read_bytes("a.csv", "e0\n1\0", 5, 0, &t));
    TEST_FAILS(MOET_MALFORMED, "--experts", read_bytes("a.csv", "expert,count\n9,1\n", 17, 8, &t));
    TEST_FAILS(MOET_INVALID, "has 2 experts, must have 8", read_bytes("a.csv", "e0,e1\n9,1\n", 10, 8, &t));
    TEST_FAILS(MOET_UNSUPPORTED, "torch.load(", read_text("a.pt", "PK\3\4", &t));
    TEST_FAILS(MOET_UNSUPPORTED, "numpy.load(", read_text("a.npz", "PK\3\4", &t));
    TEST_FAILS(MOET_UNSUPPORTED, "safetensors", read_bytes("a", "\x40\0\0\0\0\0\0\0{\"a\":1}", 15, 0, &t));
    TEST_FAILS(MOET_NOT_FOUND, "none.csv", moet_trace_read("none.csv", 0, &(moet_trace_format){0}, &t));
    moet_trace_format format;
    TEST_FAILS(MOET_INVALID, "jsonl", moet_trace_format_parse("xml", &format));
    assert_null(t.counts);
}

static void test_split(void **state)
{
    (void)state;
    moet_trace t = {0};
    moet_workloads list = {0};
    int64_t empty = 0;
    moet_import_options o = {.name = "m/ep2", .hidden = 64, .inter = 32, .ranks = 2, .rank = -1, .divide = 1};
    TEST_OK(read_text(
        "a.jsonl", "{\"step\":4,\"layer\":2,\"counts\":[5,1,0,0]}\n{\"step\":4,\"layer\":3,\"counts\":[0,9,1,0]}", &t));
    TEST_OK(moet_import_trace(&t, "a.jsonl", &o, &list, &empty));
    assert_int_equal(list.count, 3);
    assert_int_equal(empty, 1);
    static const struct {
        const char *skew;
        int32_t counts[2];
    } want[] = {{"trace:s4:l2:r0", {5, 1}}, {"trace:s4:l3:r0", {0, 9}}, {"trace:s4:l3:r1", {1, 0}}};
    for (int32_t i = 0; i < 3; i++) {
        const moet_workload *w = &list.items[i];
        assert_string_equal(w->name, "m/ep2");
        assert_string_equal(w->skew, want[i].skew);
        assert_memory_equal(w->counts, want[i].counts, sizeof want[i].counts);
        assert_int_equal(w->rows, want[i].counts[0] + want[i].counts[1]);
        assert_true(w->experts == 2 && w->hidden == 64 && w->inter == 32 && w->weight == 0);
    }
    moet_workloads_release(&list);
    o.rank = 1;
    o.divide = 2;
    TEST_OK(moet_import_trace(&t, "a.jsonl", &o, &list, &empty));
    assert_int_equal(list.count, 1);
    assert_int_equal(list.items[0].counts[0], 1); /* half a row, rounded up */
    moet_workloads_release(&list);
    o.ranks = 3;
    TEST_FAILS(MOET_INVALID, "does not divide the 4 experts", moet_import_trace(&t, "a.jsonl", &o, &list, &empty));
    moet_trace_release(&t);
    o = (moet_import_options){.name = "m", .hidden = 64, .inter = 32, .ranks = 1, .rank = -1, .divide = 1};
    TEST_OK(read_text("a.jsonl", "{\"counts\":[1048576,1]}", &t));
    TEST_FAILS(MOET_INVALID, "--divide", moet_import_trace(&t, "a.jsonl", &o, &list, &empty));
    o.divide = 2;
    TEST_OK(moet_import_trace(&t, "a.jsonl", &o, &list, &empty));
    moet_workloads_release(&list);
    moet_trace_release(&t);
}

static void add(moet_workloads *list, int32_t hidden, int32_t a, int32_t b, double weight)
{
    moet_workload w = {.name = "w", .skew = "s", .experts = 2, .hidden = hidden, .inter = 32, .weight = weight};
    w.counts = test_allocate(2 * sizeof *w.counts);
    w.counts[0] = a;
    w.counts[1] = b;
    w.rows = a + b;
    TEST_OK(moet_workloads_add(list, &w));
}

static void test_clusters(void **state)
{
    (void)state;
    moet_workloads list = {0}, chosen, again;
    moet_cluster_summary sum;
    /* Two bunches far apart and one of another shape; each bunch has a middle. */
    for (int32_t i = -2; i <= 2; i++) {
        add(&list, 64, 1000 + i, 1000 + i, 0);
        add(&list, 64, 10 + i, 0, i == 0 ? 3 : 0);
    }
    add(&list, 128, 7, 7, 2);
    TEST_OK(moet_workloads_cluster(&list, 2, 1, &chosen, &sum));
    assert_int_equal(chosen.count, 3);
    assert_int_equal(sum.different, 11);
    double total = 0;
    for (int32_t i = 0; i < chosen.count; i++) {
        const moet_workload *w = &chosen.items[i];
        total += w->weight;
        if (i > 0) assert_true(w->weight <= chosen.items[i - 1].weight);
    }
    assert_true(fabs(total - 1) < 1e-12);
    assert_int_equal(chosen.items[0].counts[0], 10); /* of seven weights in fourteen */
    assert_true(fabs(chosen.items[0].weight - 7.0 / 14) < 1e-12);
    assert_int_equal(chosen.items[1].counts[0], 1000);
    assert_true(fabs(chosen.items[1].weight - 5.0 / 14) < 1e-12);
    assert_int_equal(chosen.items[2].hidden, 128);
    assert_true(fabs(sum.distance - log(10.0 / 8)) < 1e-12);
    for (uint64_t seed = 1; seed < 20; seed++) {
        TEST_OK(moet_workloads_cluster(&list, 2, seed, &again, &sum));
        assert_int_equal(again.count, 3);
        for (int32_t i = 0; i < 3; i++) assert_memory_equal(chosen.items[i].counts, again.items[i].counts, 8);
        moet_workloads_release(&again);
    }
    moet_workloads_release(&chosen);
    moet_workloads_release(&list);
}

static void test_equals(void **state)
{
    (void)state;
    moet_workloads list = {0}, chosen;
    moet_cluster_summary sum;
    for (int32_t i = 0; i < 8; i++) add(&list, 64, 1 + i % 2, 5, 0);
    add(&list, 64, 5, 1, 0); /* as far as nothing from 1, 5, but not equal */
    TEST_OK(moet_workloads_cluster(&list, 0, 1, &chosen, &sum));
    assert_int_equal(sum.different, 3);
    assert_int_equal(chosen.count, 3);
    assert_true(fabs(chosen.items[2].weight - 1.0 / 9) < 1e-12 && sum.distance == 0);
    moet_workloads_release(&chosen);
    TEST_OK(moet_workloads_cluster(&list, 2, 1, &chosen, &sum));
    assert_int_equal(chosen.count, 2);
    assert_true(sum.distance == 0);
    assert_true(fabs(chosen.items[0].weight - 5.0 / 9) < 1e-12);
    moet_workloads_release(&chosen);
    /* More clusters than places: as many as there are places. */
    add(&list, 64, 5, 2, 0);
    TEST_OK(moet_workloads_cluster(&list, 3, 1, &chosen, &sum));
    assert_int_equal(chosen.count, 2);
    moet_workloads_release(&chosen);
    moet_workloads_release(&list);
}

static void test_distance(void **state)
{
    (void)state;
    moet_workloads list = {0};
    add(&list, 64, 8, 8, 0);
    add(&list, 64, 16, 16, 0);
    add(&list, 64, 16, 0, 0);
    assert_true(moet_workload_distance(&list.items[0], &list.items[0]) == 0);
    assert_true(fabs(moet_workload_distance(&list.items[0], &list.items[1]) - log(2)) < 1e-12);
    assert_true(fabs(moet_workload_distance(&list.items[0], &list.items[2]) - hypot(log(2), 0.5)) < 1e-12);
    moet_workloads_release(&list);
}

/* A sweep's tasks: shapes as they come, in each the heavier ones first, of equals those far from each other. */
static void test_heavier_first(void **state)
{
    (void)state;
    static const int32_t order[] = {3, 1, 2, 0, 5, 4};
    const moet_sweep_options options = {.problem = {.ops = {1, {MOET_OP_UP}}, .layouts = {1, {MOET_LAYOUT_NK}}},
                                        .shard = {1, 1}};
    moet_workloads list = {0};
    moet_sweep_tasks tasks = {0};
    add(&list, 64, 1, 1, 0.5);
    add(&list, 64, 2, 2, 0); /* 1 */
    add(&list, 64, 3, 3, 1);
    add(&list, 64, 4, 4, 7);
    add(&list, 128, 5, 5, 1);
    add(&list, 128, 6, 6, 9);
    TEST_OK(moet_sweep_plan(&options, &list, &tasks));
    assert_int_equal(tasks.count, 6);
    for (int32_t i = 0; i < 6; i++) assert_ptr_equal(tasks.items[i].workload, &list.items[order[i]]);
    moet_sweep_tasks_release(&tasks);
    moet_workloads_release(&list);
}

/* Shapes by their first workload, whatever comes between: each is raced as a whole, heavier first in all of it. */
static void test_shapes_together(void **state)
{
    (void)state;
    static const int32_t order[] = {2, 0, 4, 1, 3};
    const moet_sweep_options options = {
        .problem = {.ops = {2, {MOET_OP_UP, MOET_OP_DOWN}}, .layouts = {1, {MOET_LAYOUT_NK}}}, .shard = {1, 1}};
    moet_workloads list = {0};
    moet_sweep_tasks tasks = {0};
    add(&list, 128, 1, 1, 1);
    add(&list, 64, 2, 2, 9);
    add(&list, 128, 3, 3, 7);
    add(&list, 64, 4, 4, 1);
    add(&list, 128, 5, 5, 1);
    TEST_OK(moet_sweep_plan(&options, &list, &tasks));
    assert_int_equal(tasks.count, 10);
    for (int32_t i = 0; i < 10; i++) {
        const int32_t shape = i / 6, place = shape == 0 ? i % 3 : 3 + (i - 6) % 2;
        assert_ptr_equal(tasks.items[i].workload, &list.items[order[place]]);
    }
    moet_sweep_tasks_release(&tasks);
    moet_workloads_release(&list);
}

static void test_far_first(void **state)
{
    (void)state;
    static const int32_t order[] = {0, 8, 4, 2, 10, 6, 1, 9, 5, 3, 7};
    const moet_sweep_options options = {
        .problem = {.ops = {2, {MOET_OP_UP, MOET_OP_DOWN}}, .layouts = {1, {MOET_LAYOUT_NK}}}, .shard = {1, 1}};
    moet_workloads list = {0};
    moet_sweep_tasks tasks = {0};
    for (int32_t i = 0; i < MOET_COUNT_OF(order); i++) add(&list, 64, i + 1, i + 1, 0);
    TEST_OK(moet_sweep_plan(&options, &list, &tasks));
    assert_int_equal(tasks.count, 2 * MOET_COUNT_OF(order));
    for (int32_t i = 0; i < tasks.count; i++)
        assert_ptr_equal(tasks.items[i].workload, &list.items[order[i % MOET_COUNT_OF(order)]]);
    moet_sweep_tasks_release(&tasks);
    moet_workloads_release(&list);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_texts),     cmocka_unit_test(test_npy),           cmocka_unit_test(test_malformed),
        cmocka_unit_test(test_split),     cmocka_unit_test(test_clusters),      cmocka_unit_test(test_equals),
        cmocka_unit_test(test_distance),  cmocka_unit_test(test_heavier_first), cmocka_unit_test(test_shapes_together),
        cmocka_unit_test(test_far_first),
    };
    return cmocka_run_group_tests_name("import", tests, group_open, group_close);
}

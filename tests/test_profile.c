/* What moe-tune profile makes of ncu's output: the parser, the schedule, the verdict. */
#include <math.h>

#include "../src/file.h"
#include "../tuner/why.h"
#include "test.h"

static const char *fixture_path;

static char *read_fixture(void)
{
    char *text = NULL;
    size_t size = 0;
    TEST_OK(moet_file_read(fixture_path, 1 << 20, &text, &size));
    return text;
}

static void check_value(const moet_ncu_kernel *kernel, moet_ncu_metric metric, double value)
{
    if (!(fabs(kernel->values[metric] - value) <= 1e-9 * fabs(value)))
        test_fail("%s: %g, not %g", moet_ncu_metric_name(metric), kernel->values[metric], value);
}

/* What ncu printed on an H100: base units, thousands with commas, columns that are not asked for, a message before. */
static void test_fixture(void **state)
{
    (void)state;
    char *text = read_fixture();
    moet_ncu_report report;
    TEST_OK(moet_ncu_parse(text, "fixture", &report));
    free(text);
    assert_int_equal(report.count, 1);
    assert_string_equal(report.joined.name, "wgmma_gemm_swap_256x128_s4_c2_nk_h");
    check_value(&report.joined, MOET_NCU_TIME_NS, 890720);
    check_value(&report.joined, MOET_NCU_CYCLES, 1484859);
    check_value(&report.joined, MOET_NCU_HBM_READ_BYTES, 2119354624);
    check_value(&report.joined, MOET_NCU_HBM_WRITTEN_BYTES, 66045184);
    check_value(&report.joined, MOET_NCU_L2_LINK_PCT, 88.54);
    check_value(&report.joined, MOET_NCU_SM_COUNT, 132);
    check_value(&report.joined, MOET_NCU_REGISTERS, 168);
    check_value(&report.joined, MOET_NCU_STALL_SLEEPING, 0);
    for (int32_t m = 0; m < MOET_NCU_METRIC_COUNT; m++)
        if (isnan(report.joined.values[m])) test_fail("no %s", moet_ncu_metric_name((moet_ncu_metric)m));
    moet_ncu_report_release(&report);
}

/* Without --print-units base; n/a, and columns that are not there. */
static void test_units(void **state)
{
    (void)state;
    moet_ncu_report report;
    TEST_OK(moet_ncu_parse("\"ID\",\"Kernel Name\",\"gpu__time_duration.sum\",\"dram__bytes_read.sum\","
                           "\"dram__bytes_write.sum\","
                           "\"smsp__average_warps_issue_stalled_membar_per_issue_active.ratio\"\n"
                           "\"\",\"\",\"us\",\"Gbyte\",\"Mbyte\",\"inst\"\n"
                           "\"0\",\"k(const int *, float)\",\"1,981.76\",\"2.43\",\"67.11\",\"n/a\"\n",
                           "text", &report));
    assert_string_equal(report.joined.name, "k(const int *, float)");
    check_value(&report.joined, MOET_NCU_TIME_NS, 1981760);
    check_value(&report.joined, MOET_NCU_HBM_READ_BYTES, 2.43e9);
    check_value(&report.joined, MOET_NCU_HBM_WRITTEN_BYTES, 67.11e6);
    assert_true(isnan(report.joined.values[MOET_NCU_STALL_MEMBAR]));
    assert_true(isnan(report.joined.values[MOET_NCU_STALL_SLEEPING]));
    moet_ncu_report_release(&report);
}

#define NAMES                                                                                                          \
    "\"ID\",\"Kernel Name\",\"gpu__time_duration.sum\",\"dram__bytes_read.sum\","                                      \
    "\"sm__pipe_tensor_cycles_active.avg.pct_of_peak_sustained_elapsed\",\"launch__registers_per_thread\"\n"
#define UNITS "\"\",\"\",\"ns\",\"byte\",\"%\",\"register/thread\"\n"

static void test_join(void **state)
{
    (void)state;
    moet_ncu_report report;
    TEST_OK(moet_ncu_parse(NAMES UNITS "\"0\",\"a, \"\"b\"\"\",\"1,000\",\"10\",\"80\",\"32\"\n"
                                       "\"1\",\"long\",\"3,000\",\"30\",\"40\",\"168\"\r\n",
                           "text", &report));
    assert_int_equal(report.count, 2);
    assert_string_equal(report.kernels[0].name, "a, \"b\"");
    assert_string_equal(report.joined.name, "long");
    check_value(&report.joined, MOET_NCU_TIME_NS, 4000);
    check_value(&report.joined, MOET_NCU_HBM_READ_BYTES, 40);
    check_value(&report.joined, MOET_NCU_TENSOR_PCT, 50); /* by time */
    check_value(&report.joined, MOET_NCU_REGISTERS, 168);
    moet_ncu_report_release(&report);
}

static void test_malformed(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        moet_status status;
        const char *words;
    } cases[] = {
        {"", MOET_NOT_FOUND, "saw no kernel"},
        {"==WARNING== No kernels were profiled.\n", MOET_NOT_FOUND, "saw no kernel"},
        {NAMES UNITS, MOET_NOT_FOUND, "saw no kernel"},
        {"==ERROR== ERR_NVGPUCTRPERM - The user does not have permission\n", MOET_UNSUPPORTED, "NVreg_Restrict"},
        {"\"ID\",\"Kernel Name\",\"Metric Name\"\n", MOET_MALFORMED, "x:1: no column 'gpu__time_duration.sum'"},
        {"\"ID\",\"gpu__time_duration.sum\"\n", MOET_MALFORMED, "'Kernel Name'"},
        {NAMES UNITS "\"0\",\"k\",\"1\"\n", MOET_MALFORMED, "x:3: 3 fields, but 6 names"},
        {NAMES UNITS "\"0\",\"k\",\"1x\",\"1\",\"1\",\"1\"\n", MOET_MALFORMED, "'1x' is no number"},
        {NAMES UNITS "\"0\",\"k\",\"n/a\",\"1\",\"1\",\"1\"\n", MOET_MALFORMED, "without a time"},
        {NAMES UNITS "\"0\",\"k,\"1\",\"1\",\"1\",\"1\"\n", MOET_MALFORMED, "no line of CSV"},
    };
    for (int32_t i = 0; i < MOET_COUNT_OF(cases); i++) {
        moet_ncu_report report = {0};
        TEST_FAILS(cases[i].status, cases[i].words, moet_ncu_parse(cases[i].text, "x", &report));
        assert_null(report.kernels);
    }
    TEST_FAILS(MOET_UNSUPPORTED, "ERR_NVGPUCTRPERM", moet_ncu_explain("a\n==ERROR== ERR_NVGPUCTRPERM\n"));
    TEST_FAILS(MOET_DEVICE, "no such config", moet_ncu_explain("==ERROR== code\nmoe-tune: no such config\nmore\n"));
    TEST_FAILS(MOET_DEVICE, "==ERROR== code", moet_ncu_explain("a\n==ERROR== code\nb\n"));
    TEST_FAILS(MOET_DEVICE, "last", moet_ncu_explain("a\nlast\n\n"));
    TEST_FAILS(MOET_DEVICE, "it says nothing", moet_ncu_explain(""));
}

static bool is_near(double a, double b) { return fabs(a - b) < 1e-9; }

/* By hand: 2 experts of 130 and 64 rows, N = 256, tiles of 128x128 whose rows come in steps of 64, 3 SMs. Tiles of 128,
 * 64 (2 rows used) and 64 rows, two columns each: 6 tiles; 2 * 256 rows multiplied of 2 * 194. 128 to SM 0, 128 to 1,
 * 64 to 2, 64 to 2, 64 to one of them all, 64 to another: the last ends at 192 of 3 * 192. */
static void test_schedule(void **state)
{
    (void)state;
    moet_problem problem;
    moet_problem_init(&problem, MOET_OP_UP, 2, 64, 128);
    const moet_tile_shape shape = moet_tile_shape_of(128, 128, 64);
    moet_schedule schedule;
    TEST_OK(moet_schedule_of(&problem, (const int32_t[]){130, 64}, &shape, 3, &schedule));
    assert_int_equal(schedule.tiles, 6);
    assert_true(is_near(schedule.waves, 2));
    assert_true(is_near(schedule.padding_share, 1 - 194.0 / 256));
    assert_true(is_near(schedule.tail_share, 1 - 512.0 / 576));
    TEST_OK(moet_schedule_of(&problem, (const int32_t[]){0, 0}, &shape, 3, &schedule));
    assert_int_equal(schedule.tiles, 0);
    assert_true(schedule.padding_share == 0 && schedule.tail_share == 0);
    /* On N's side an expert's tiles are of one height, in steps of 16: 130 rows are 2 tiles of 80 and 50 (64). */
    moet_tile_shape swapped = moet_tile_shape_of(128, 256, 16);
    swapped.rows_are_n = true;
    TEST_OK(moet_schedule_of(&problem, (const int32_t[]){130, 0}, &swapped, 1, &schedule));
    assert_int_equal(schedule.tiles, 2);
    assert_true(is_near(schedule.padding_share, 1 - 130.0 / 144));
    assert_true(is_near(schedule.tail_share, 0));
    /* Five tiles of 128 rows on 4 SMs end at 2 * 128, and where the last wave's are cut in halves at 1.5 * 128. */
    moet_tile_shape split = moet_tile_shape_of(128, 256, 128);
    TEST_OK(moet_schedule_of(&problem, (const int32_t[]){512, 128}, &split, 4, &schedule));
    assert_true(is_near(schedule.tail_share, 1 - 5.0 / 8));
    split.splits_last = true;
    TEST_OK(moet_schedule_of(&problem, (const int32_t[]){512, 128}, &split, 4, &schedule));
    assert_true(is_near(schedule.tail_share, 1 - 5.0 / 6));
    /* Not a last wave that is more than half full: 7 tiles on 4. */
    TEST_OK(moet_schedule_of(&problem, (const int32_t[]){512, 384}, &split, 4, &schedule));
    assert_true(is_near(schedule.tail_share, 1 - 7.0 / 8));
}

#ifdef MOET_CUDA
/* A launch with the numbers given; NaN for the rest. */
static moet_bound judge(const char *config_text, double tensor, double l2, double hbm, double active, double padding,
                        moet_why_verdict *verdict)
{
    moet_problem problem;
    moet_config config;
    moet_ncu_report report = {.count = 1};
    moet_problem_init(&problem, MOET_OP_UP, 8, 7168, 2048);
    TEST_OK(moet_config_parse(config_text, &config));
    moet_why_launch launch = {.problem = &problem, .config = &config, .report = &report, .has_schedule = true};
    launch.schedule.padding_share = padding;
    launch.routing.max_over_mean = 4;
    for (int32_t m = 0; m < MOET_NCU_METRIC_COUNT; m++) report.joined.values[m] = NAN;
    report.joined.values[MOET_NCU_TENSOR_PCT] = tensor;
    report.joined.values[MOET_NCU_L2_PCT] = l2;
    report.joined.values[MOET_NCU_HBM_PCT] = hbm;
    report.joined.values[MOET_NCU_SM_ACTIVE_PCT] = active;
    moet_why_judge(&launch, verdict);
    return verdict->bound;
}

static void test_verdict(void **state)
{
    (void)state;
    static const char coop[] = "wgmma_gemm:mode=coop,tile=128x256,stages=4,cluster=1x1,group=16,order=plain,"
                               "store=bulk,launch=early,spare=0";
    moet_why_verdict v;
    assert_int_equal(judge(coop, 92, 70, 30, 99, 0.01, &v), MOET_BOUND_TENSOR);
    assert_true(v.is_clear);
    TEST_CONTAINS(v.suggestion, "only a higher clock");
    assert_int_equal(judge(coop, 92, 70, 30, 99, 0.3, &v), MOET_BOUND_TENSOR);
    TEST_CONTAINS(v.suggestion, "mode=swap");
    assert_int_equal(judge(coop, 60, 90, 30, 99, 0, &v), MOET_BOUND_L2);
    TEST_CONTAINS(v.suggestion, "cluster=1x2");
    assert_null(strstr(v.suggestion, "larger tile")); /* there is none */
    static const char small[] = "wgmma_gemm:mode=coop,tile=128x192,stages=5,cluster=1x1,group=16,order=plain,"
                                "store=bulk,launch=early,spare=0";
    assert_int_equal(judge(small, 60, 90, 30, 99, 0, &v), MOET_BOUND_L2);
    TEST_CONTAINS(v.suggestion, "larger tile");
    assert_int_equal(judge(coop, 20, 40, 88, 99, 0, &v), MOET_BOUND_HBM);
    TEST_CONTAINS(v.suggestion, "order=mixed");
    assert_int_equal(judge(coop, 60, 65, 30, 75, 0, &v), MOET_BOUND_TAIL); /* 65 % of 75 %: at the ceiling while busy */
    assert_true(v.is_clear);
    TEST_CONTAINS(v.suggestion, "order=front");
    assert_int_equal(judge(coop, 20, 68, 30, 99, 0, &v), MOET_BOUND_L2);
    assert_false(v.is_clear);
    assert_int_equal(judge(coop, 20, 30, 30, 99, 0, &v), MOET_BOUND_LATENCY);
    TEST_CONTAINS(v.suggestion, "mode=pingpong");
    assert_int_equal(judge(coop, NAN, NAN, NAN, NAN, 0, &v), MOET_BOUND_LATENCY);
    /* Nothing is suggested that the family has not got. */
    assert_int_equal(judge("mma_gemm:tile=128x128,bk=64,stages=3,group=8", 60, 90, 30, 99, 0, &v), MOET_BOUND_L2);
    assert_null(strstr(v.suggestion, "cluster"));
    TEST_CONTAINS(v.suggestion, "tile=128x128");
}
#endif

int main(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "usage: %s NCU_RAW.csv\n", argv[0]);
        return 2;
    }
    fixture_path = argv[1];
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fixture),   cmocka_unit_test(test_units),    cmocka_unit_test(test_join),
        cmocka_unit_test(test_malformed), cmocka_unit_test(test_schedule),
#ifdef MOET_CUDA
        cmocka_unit_test(test_verdict),
#endif
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

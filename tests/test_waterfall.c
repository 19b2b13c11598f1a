/* The parts of a measured time, by numbers that are worked out by hand. */
#include <math.h>

#include "../tuner/waterfall.h"
#include "test.h"

/* 3 experts of 130 rows, N = 256, K = 64; tiles of 128x128 whose rows come in steps of 64, on 4 SMs. An expert has row
 * tiles of 128 and 64 (2 of them used) rows, two columns of each: 12 tiles. In the experts' order the SMs end at 320,
 * 320, 256, 256 rows: of 4 * 320 they are busy for 3 * 2 * 192 = 1152. */
static const int32_t counts[3] = {130, 130, 130};

/* A row on all SMs takes 1 ns at the dense rate: 390 ns of useful ones, 3 * 192 = 576 of all, 640 until the last tile
 * ends. Each operand once: (390 * 64 + 3 * 256 * 64 + 390 * 256) * 2 B = 347904 B, 347.904 ns. */
static const moet_ceilings ceilings = {
    .dense_flops_per_s = 2 * 256 * 64 * 1e9, .copy_bytes_per_s = 0.9e12, .read_bytes_per_s = 1e12};

/* The tensor pipe at 0.8 of the dense rate: 800 ns until the last tile ends. Tiles load 6 * 192 rows of x and 12 * 128
 * columns of w, 2688 of 128 B; at 384 B/ns of busy SMs, 0.9 of all time, these take 896 ns. Each once they would be 390
 * and 3 * 256. They store 576 * 256 elements of 2 B: 144 ns, until the last tile ends 160. */
static const moet_device_rates rates = {{[MOET_RATE_TENSOR] = 0.8 * 2 * 256 * 64 * 1e9,
                                         [MOET_RATE_L2] = 384e9 / 0.9,
                                         [MOET_RATE_HBM] = 1, /* not looked at */
                                         [MOET_RATE_STORE] = 2048e9,
                                         [MOET_RATE_LAUNCH] = 1}};

static const moet_tile_shape *plain(moet_tile_shape *shape)
{
    *shape = moet_tile_shape_of(128, 128, 64);
    return shape;
}

static void check(const char *what, const moet_waterfall_point *point, const moet_ceilings *limits,
                  const moet_device_rates *fitted, const double expected[MOET_WATERFALL_PART_COUNT])
{
    double parts[MOET_WATERFALL_PART_COUNT], sum = 0;
    TEST_OK(moet_waterfall_of(point, limits, fitted, parts));
    for (int32_t i = 0; i < MOET_WATERFALL_PART_COUNT; i++) {
        if (!(fabs(parts[i] - expected[i]) < 1e-6))
            test_fail("%s: %s is %.9g ns, not %.9g", what, moet_waterfall_text((moet_waterfall_part)i), parts[i],
                      expected[i]);
        sum += parts[i];
    }
    if (!(fabs(sum - point->time_ns) < 1e-9)) test_fail("%s: the parts sum to %.12g ns", what, sum);
}

static void test_parts(void **state)
{
    (void)state;
    moet_problem problem;
    moet_tile_shape shape;
    moet_problem_init(&problem, MOET_OP_UP, 3, 64, 128);
    moet_waterfall_point point = {
        .problem = &problem, .counts = counts, .shape = plain(&shape), .sm_count = 4, .floor_ns = 390, .time_ns = 1000};
    /* L2 is 896 - 800. Multiplying and storing take 960 beside it: 64 more. 160 of the rest are the slower pipe. */
    check("by math", &point, &ceilings, &rates, (double[]){390, 186, 64, 96, 64, 200});
    point.time_ns = 700;
    check("less than the parts say", &point, &ceilings, &rates, (double[]){390, 186, 64, 96, 64, -100});
    point.time_ns = 1000;

    shape.hides_store = true; /* 160 under 896 */
    check("stores hidden", &point, &ceilings, &rates, (double[]){390, 186, 64, 96, 0, 264});
    plain(&shape);
    shape.x_shared = 2; /* 576 + 1536 loads: 704 ns under 800; 160 of stores then add to 800 */
    check("copies shared", &point, &ceilings, &rates, (double[]){390, 186, 64, 0, 160, 200});
    plain(&shape);
    shape.tensor_fraction = 0.5; /* the pipe takes 1600, which hides everything but stores */
    check("a slower instruction", &point, &ceilings, &rates, (double[]){390, 186, 64, 0, 160, 200});
    plain(&shape);

    /* HBM takes 1.5 times the padded tiles, of which nothing is seen then: 960. L2 and stores are hidden too. */
    moet_ceilings narrow = ceilings;
    narrow.read_bytes_per_s = 347904 / 960e-9;
    narrow.copy_bytes_per_s = 1;
    point.floor_ns = 960;
    check("by HBM", &point, &narrow, &rates, (double[]){960, 0, 0, 0, 0, 40});
    /* Between: 400 of HBM hide the math, not the padding. */
    narrow.read_bytes_per_s = 347904 / 400e-9;
    point.floor_ns = 400;
    check("by both", &point, &narrow, &rates, (double[]){400, 176, 64, 96, 64, 200});
    point.floor_ns = 390;

    /* L2 a tenth as fast: 8960 ns. Only what is loaded again is its part, 2688 - 390 - 768 loads of 10/3 ns. */
    moet_device_rates slow = rates;
    slow.rate[MOET_RATE_L2] /= 10;
    point.time_ns = 10000;
    check("loaded again", &point, &ceilings, &slow, (double[]){390, 186, 64, 5100, 0, 4260});
}

/* What nothing is known of, and what nothing is to be done for. */
static void test_unknown(void **state)
{
    (void)state;
    moet_problem problem;
    moet_tile_shape shape;
    moet_problem_init(&problem, MOET_OP_DOWN, 3, 256, 64);
    moet_waterfall_point point = {
        .problem = &problem, .counts = counts, .sm_count = 4, .floor_ns = 390, .time_ns = 900};
    check("no tiles known", &point, &ceilings, &rates, (double[]){390, 0, 0, 0, 0, 510});
    point.shape = plain(&shape);
    point.counts = (const int32_t[]){0, 0, 0};
    point.floor_ns = 0;
    check("no rows", &point, &ceilings, &rates, (double[]){0, 0, 0, 0, 0, 900});
    /* An idle expert's weights are not loaded: one of 128 rows is 2 tiles on 4 SMs, nothing of it padded. 128 ns of
     * math wait until 256; loads are 2 * 128 + 2 * 128 of which 128 again: 512 / 3 * 0.9 / 0.5 ns under the pipe's 320;
     * stores 65536 B / 2048 / 0.5. */
    point.counts = (const int32_t[]){0, 128, 0};
    point.floor_ns = 128;
    check("an idle expert", &point, &ceilings, &rates, (double[]){128, 0, 128, 0, 64, 580});
    moet_device_rates slow = rates;
    slow.rate[MOET_RATE_L2] /= 4; /* 1228.8 ns, of which 128 of 512 loads again */
    check("loaded again by one", &point, &ceilings, &slow, (double[]){128, 0, 128, 307.2, 0, 336.8});
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_parts), cmocka_unit_test(test_unknown)};
    return cmocka_run_group_tests_name("waterfall", tests, NULL, NULL);
}

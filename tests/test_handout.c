/* Which task of a sweep is done next: GEMMs before their path, a problem's filling behind its races, and again until
 * nothing had to be measured; lanes that wait for each other. */
#include <time.h>

#include "test.h"

#include "../tuner/sweep_lanes.h"

enum { WORKLOADS = 2, OPS = 3, TASKS = WORKLOADS * OPS, ALL_TASKS = 2 * TASKS /* of two shapes */ };

typedef struct plan {
    moet_workload workloads[WORKLOADS];
    moet_sweep_task items[ALL_TASKS];
    moet_sweep_tasks tasks;
} plan;

/* up of both, down of both, ffn of both, and of another shape; of these the first. */
static void begin(plan *p, int32_t count, bool fills, int32_t lanes, moet_handout *h)
{
    static const moet_op ops[OPS] = {MOET_OP_UP, MOET_OP_DOWN, MOET_OP_FFN};
    *p = (plan){0};
    for (int32_t i = 0; i < ALL_TASKS; i++) {
        p->items[i].workload = &p->workloads[i % WORKLOADS];
        moet_problem_init(&p->items[i].problem, ops[i % TASKS / WORKLOADS], 8, 64, i < TASKS ? 32 : 64);
    }
    p->tasks = (moet_sweep_tasks){count, p->items};
    TEST_OK(moet_handout_create(&p->tasks, fills, lanes, h));
}

static void take(moet_handout *h, int32_t wanted, moet_task_step step)
{
    int32_t task = -1;
    moet_task_step got;
    assert_false(moet_handout_is_over(h));
    assert_true(moet_handout_take(h, &task, &got));
    assert_int_equal(task, wanted);
    assert_int_equal(got, step);
}

static void race(moet_handout *h, int32_t wanted)
{
    take(h, wanted, MOET_STEP_RACE);
    moet_handout_finish(h, wanted, true, false);
}

static void fill(moet_handout *h, int32_t wanted, bool measured)
{
    take(h, wanted, MOET_STEP_FILL);
    moet_handout_finish(h, wanted, true, measured);
}

static void assert_over(moet_handout *h)
{
    int32_t task;
    moet_task_step step;
    assert_true(moet_handout_is_over(h));
    assert_false(moet_handout_take(h, &task, &step));
}

static void test_order(void **state)
{
    (void)state;
    plan p;
    moet_handout h;
    begin(&p, TASKS, false, 1, &h);
    take(&h, 0, MOET_STEP_RACE);
    assert_false(moet_handout_is_ready(&h, 0));
    assert_true(moet_handout_is_ready(&h, 1));
    moet_handout_finish(&h, 0, false, false); /* given back */
    for (int32_t i = 0; i < TASKS; i++) {
        assert_int_equal(moet_handout_raced(&h), i);
        assert_int_equal(moet_handout_is_ready(&h, 4), i == 3 || i == 4);
        race(&h, i);
    }
    assert_over(&h);
    moet_handout_destroy(&h);
}

static void test_path_waits(void **state)
{
    (void)state;
    plan p;
    moet_handout h;
    begin(&p, TASKS, false, 2, &h);
    race(&h, 0);
    take(&h, 1, MOET_STEP_RACE); /* a lane is long at it */
    race(&h, 2);
    race(&h, 3);
    race(&h, 4);
    take(&h, 5, MOET_STEP_RACE); /* there is nothing else to do */
    assert_false(moet_handout_is_over(&h));
    moet_handout_finish(&h, 5, true, false);
    moet_handout_finish(&h, 1, true, false);
    assert_over(&h);
    moet_handout_destroy(&h);
}

static void test_filling(void **state)
{
    (void)state;
    plan p;
    moet_handout h;
    begin(&p, TASKS, true, 1, &h);
    for (int32_t i = 0; i < TASKS; i++) race(&h, i);
    assert_int_equal(moet_handout_raced(&h), TASKS);
    assert_int_equal(moet_handout_pass(&h, 0), 0);
    fill(&h, 0, true);
    assert_int_equal(moet_handout_pass(&h, 1), 0);
    fill(&h, 1, false); /* what task 0 measured may change what is chosen */
    assert_int_equal(moet_handout_pass(&h, 1), 1);
    assert_int_equal(moet_handout_pass(&h, 2), 0);
    fill(&h, 0, false);
    take(&h, 1, MOET_STEP_FILL);
    moet_handout_finish(&h, 1, false, false); /* given back */
    fill(&h, 1, false);
    for (int32_t i = 2; i < TASKS; i++) fill(&h, i, false);
    assert_over(&h);
    moet_handout_destroy(&h);
}

/* A path whose GEMMs another lane races waits while there is something to fill. */
static void test_filling_before_paths(void **state)
{
    (void)state;
    plan p;
    moet_handout h;
    begin(&p, TASKS, true, 2, &h);
    for (int32_t i = 0; i < 3; i++) race(&h, i);
    take(&h, 3, MOET_STEP_RACE); /* a lane is long at it */
    race(&h, 4);
    fill(&h, 0, false);
    fill(&h, 1, false);
    take(&h, 5, MOET_STEP_RACE); /* there is nothing else to do */
    moet_handout_finish(&h, 3, true, false);
    moet_handout_finish(&h, 5, true, false);
    for (int32_t i = 2; i < TASKS; i++) fill(&h, i, false);
    assert_over(&h);
    moet_handout_destroy(&h);
}

/* Paths' kernels are compiled while the GEMMs of their shape are filled; other shapes wait. */
static void test_filling_early(void **state)
{
    (void)state;
    plan p;
    moet_handout h;
    begin(&p, ALL_TASKS, true, 1, &h);
    h.fills_early = true;
    for (int32_t shape = 0; shape < ALL_TASKS; shape += TASKS) {
        for (int32_t i = 0; i < 4; i++) race(&h, shape + i);
        fill(&h, shape + 0, true);
        fill(&h, shape + 1, false);
        for (int32_t i = 0; i < 4; i++) fill(&h, shape + i, false);
        race(&h, shape + 4);
        race(&h, shape + 5);
    }
    for (int32_t shape = 0; shape < ALL_TASKS; shape += TASKS) {
        fill(&h, shape + 4, false);
        fill(&h, shape + 5, false);
    }
    assert_over(&h);
    moet_handout_destroy(&h);
}

/* What one lane is long at, the other passes over: a race of a GEMM, then the filling of one. */
static void test_filling_early_on_two_lanes(void **state)
{
    (void)state;
    plan p;
    moet_handout h;
    begin(&p, ALL_TASKS, true, 2, &h);
    h.fills_early = true;
    for (int32_t i = 0; i < 3; i++) race(&h, i);
    take(&h, 3, MOET_STEP_RACE);
    race(&h, TASKS);
    moet_handout_finish(&h, 3, true, false);
    for (int32_t i = 0; i < 3; i++) fill(&h, i, false);
    take(&h, 3, MOET_STEP_FILL);
    for (int32_t i = 1; i < 4; i++) race(&h, TASKS + i);
    moet_handout_finish(&h, 3, true, true); /* it may be that more is to be filled */
    fill(&h, 2, false);
    fill(&h, 3, false);
    race(&h, 4);
    moet_handout_destroy(&h);
}

typedef struct other_lane {
    moet_handout *h;
    int32_t task;
    moet_task_step step;
    bool found;
} other_lane;

static void *take_one(void *context)
{
    other_lane *lane = context;
    lane->found = moet_handout_take(lane->h, &lane->task, &lane->step);
    return NULL;
}

/* A lane that has nothing to do waits for one that races: the filling follows from that. */
static void test_lanes_wait(void **state)
{
    (void)state;
    const struct timespec a_while = {.tv_nsec = 50000000}; /* the other lane then waits */
    plan p;
    moet_handout h;
    begin(&p, WORKLOADS, true, 2, &h);
    take(&h, 0, MOET_STEP_RACE);
    race(&h, 1);
    other_lane lane = {.h = &h, .task = -1};
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, take_one, &lane), 0);
    nanosleep(&a_while, NULL);
    moet_handout_finish(&h, 0, true, false);
    pthread_join(thread, NULL);
    assert_true(lane.found);
    assert_int_equal(lane.task, 0);
    assert_int_equal(lane.step, MOET_STEP_FILL);
    fill(&h, 1, false);
    /* One that is given back is another's. */
    assert_int_equal(pthread_create(&thread, NULL, take_one, &lane), 0);
    nanosleep(&a_while, NULL);
    moet_handout_finish(&h, 0, false, false);
    pthread_join(thread, NULL);
    assert_true(lane.found);
    assert_int_equal(lane.task, 0);
    /* And where nothing follows it ends. */
    assert_int_equal(pthread_create(&thread, NULL, take_one, &lane), 0);
    nanosleep(&a_while, NULL);
    moet_handout_finish(&h, 0, true, false);
    pthread_join(thread, NULL);
    assert_false(lane.found);
    assert_over(&h);
    moet_handout_destroy(&h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_order),         cmocka_unit_test(test_path_waits),
        cmocka_unit_test(test_filling),       cmocka_unit_test(test_filling_before_paths),
        cmocka_unit_test(test_filling_early), cmocka_unit_test(test_filling_early_on_two_lanes),
        cmocka_unit_test(test_lanes_wait)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

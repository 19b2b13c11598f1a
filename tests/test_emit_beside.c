/* emit beside others: a sweep that writes the database, another emit into the same folder. */
#include "store_fill.h"
#include "test.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../tuner/emit.h"

/* A sweep writes while a table is made: what is emitted is the database of one moment, a winner at each point. The
 * writer is killed somewhere in the middle. */
static void test_beside_a_writer(void **state)
{
    (void)state;
    char db[512], dir[512];
    moet_store *store;
    moet_emitted emitted;
    moet_problem problem;
    moet_config config;
    fill_path("beside.db", db);
    fill_path("beside", dir);
    moet_problem_init(&problem, MOET_OP_UP, 2, 64, 32);
    fill_config(fill_host, &problem, 0, &config);
    fill_trial t = {.device = fill_host,
                    .problem = &problem,
                    .config = &config,
                    .final_rounds = true,
                    .replace = true,
                    .median_ns = 1000};
    TEST_OK(moet_store_open(db, MOET_STORE_WRITE, &store));
    int64_t run = fill_run(store, fill_host);
    for (int32_t rows = 1; rows <= 8; rows++) {
        t.counts = (const int32_t[]){rows, rows};
        assert_true(fill_put(store, run, &t));
    }
    moet_store_close(store);
    const pid_t writer = fork();
    assert_true(writer >= 0);
    if (writer == 0) {
        if (moet_store_open(db, MOET_STORE_WRITE, &store) != MOET_OK) _exit(1);
        run = fill_run(store, fill_host);
        for (int32_t i = 0;; i++) {
            t.counts = (const int32_t[]){1 + i % 8, 1 + i % 8};
            t.median_ns = 1000 + i % 100;
            fill_put(store, run, &t);
        }
    }
    moet_status status = moet_store_open(db, MOET_STORE_READ, &store);
    int32_t whole = 0;
    for (int32_t i = 0; i < 50 && status == MOET_OK; i++) {
        status = moet_emit(store, dir, &(moet_emit_options){0}, &emitted);
        whole += status == MOET_OK && emitted.entries == 8;
    }
    kill(writer, SIGKILL);
    int how = 0;
    assert_int_equal(waitpid(writer, &how, 0), writer);
    assert_true(WIFSIGNALED(how)); /* it wrote to the end */
    TEST_OK(status);
    assert_int_equal(whole, 50);
    TEST_OK(moet_emit(store, dir, &(moet_emit_options){0}, &emitted));
    assert_int_equal(emitted.entries, 8);
    moet_store_close(store);
}

/* Of two emits into one folder the one that looked first does not write over the other's table, whose kernels it does
 * not know. */
static void test_two_emits(void **state)
{
    (void)state;
    char db[512], dir[512];
    moet_store *store;
    moet_emitted emitted;
    moet_emit_folder before;
    moet_problem problem;
    moet_problem_init(&problem, MOET_OP_UP, 4, 64, 32);
    fill_path("two.db", db);
    fill_path("two", dir);
    TEST_OK(moet_store_open(db, MOET_STORE_WRITE, &store));
    fill_random(store, fill_host, &fill_elsewhere, &problem, 1, 2);
    TEST_OK(moet_emit(store, dir, &(moet_emit_options){0}, &emitted));
    TEST_OK(moet_emit_folder_look(dir, &before));
    fill_random(store, fill_host, &fill_elsewhere, &problem, 2, 2);
    TEST_OK(moet_emit(store, dir, &(moet_emit_options){0}, &emitted));
    char *text = fill_table_text(dir);
    TEST_FAILS(MOET_BUSY, "another emit replaced its table",
               moet_emit_folder_write(store, dir, before.hash, "{}", NULL, 0));
    char *after = fill_table_text(dir);
    assert_string_equal(after, text);
    free(after);
    free(text);
    moet_store_close(store);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_beside_a_writer), cmocka_unit_test(test_two_emits)};
    return cmocka_run_group_tests_name("emit_beside", tests, fill_group_open, fill_group_close);
}

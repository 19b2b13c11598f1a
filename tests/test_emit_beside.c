/* emit beside others: a sweep that writes the database, another emit into the same folder. */
#include "store_fill.h"
#include "test.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../tuner/emit.h"

static moet_device *host;
static moet_device elsewhere;
static char folder[256];

static int group_open(void **state)
{
    (void)state;
    test_folder_make(folder);
    if (moet_device_open("host", &host) != MOET_OK) return 1;
    elsewhere = *host;
    strcpy(elsewhere.info.name, "Another processor");
    moet_device_format_key(&elsewhere.info, elsewhere.key);
    return 0;
}

static int group_close(void **state)
{
    (void)state;
    moet_device_close(host);
    test_folder_remove(folder);
    return 0;
}

static void path_of(const char *name, char path[512]) { snprintf(path, 512, "%s/%s", folder, name); }

static char *table_text(const char *dir)
{
    char path[600];
    snprintf(path, sizeof path, "%s/table.json", dir);
    return test_file_read(path, NULL);
}

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
    path_of("beside.db", db);
    path_of("beside", dir);
    moet_problem_init(&problem, MOET_OP_UP, 2, 64, 32);
    fill_config(host, &problem, 0, &config);
    fill_trial t = {.device = host,
                    .problem = &problem,
                    .config = &config,
                    .final_rounds = true,
                    .replace = true,
                    .median_ns = 1000};
    TEST_OK(moet_store_open(db, MOET_STORE_WRITE, &store));
    int64_t run = fill_run(store, host);
    for (int32_t rows = 1; rows <= 8; rows++) {
        t.counts = (const int32_t[]){rows, rows};
        assert_true(fill_put(store, run, &t));
    }
    moet_store_close(store);
    const pid_t writer = fork();
    assert_true(writer >= 0);
    if (writer == 0) {
        if (moet_store_open(db, MOET_STORE_WRITE, &store) != MOET_OK) _exit(1);
        run = fill_run(store, host);
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
    path_of("two.db", db);
    path_of("two", dir);
    TEST_OK(moet_store_open(db, MOET_STORE_WRITE, &store));
    fill_random(store, host, &elsewhere, &problem, 1, 2);
    TEST_OK(moet_emit(store, dir, &(moet_emit_options){0}, &emitted));
    TEST_OK(moet_emit_folder_look(dir, &before));
    fill_random(store, host, &elsewhere, &problem, 2, 2);
    TEST_OK(moet_emit(store, dir, &(moet_emit_options){0}, &emitted));
    char *text = table_text(dir);
    TEST_FAILS(MOET_BUSY, "another emit replaced its table", moet_emit_folder_write(store, dir, before.hash, "{}", NULL, 0));
    char *after = table_text(dir);
    assert_string_equal(after, text);
    free(after);
    free(text);
    moet_store_close(store);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_beside_a_writer), cmocka_unit_test(test_two_emits)};
    return cmocka_run_group_tests_name("emit_beside", tests, group_open, group_close);
}

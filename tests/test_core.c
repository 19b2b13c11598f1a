/* The small parts that the rest stands on: status, SHA-256, whole files, libraries bound at run time. */
#include "test.h"

#include <pthread.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../src/file.h"
#include "../src/module.h"

static void test_version(void **state)
{
    (void)state;
    char text[32];
    snprintf(text, sizeof text, "%d.%d.%d", MOET_VERSION_MAJOR, MOET_VERSION_MINOR, MOET_VERSION_PATCH);
    assert_string_equal(moet_version(), text);
}

/* ---- status ---- */

static void *first_error_of_a_thread(void *unused)
{
    (void)unused;
    /* Each thread has its own last error, empty at first. */
    return moet_last_error()[0] ? "not empty" : NULL;
}

static void test_status(void **state)
{
    (void)state;
    for (int32_t i = 0; i < MOET_STATUS_COUNT; i++) {
        assert_string_not_equal(moet_status_name((moet_status)i), "UNKNOWN");
        for (int32_t j = 0; j < i; j++)
            assert_string_not_equal(moet_status_name((moet_status)i), moet_status_name((moet_status)j));
    }
    assert_string_equal(moet_status_name(MOET_NO_DEVICE_MEMORY), "NO_DEVICE_MEMORY");
    assert_string_equal(moet_status_name((moet_status)1000), "UNKNOWN");
    assert_string_equal(moet_status_name((moet_status)-1), "UNKNOWN");
    assert_int_equal(moet_fail(MOET_IO, "a\nb\r%s", "c"), MOET_IO);
    assert_string_equal(moet_last_error(), "a b c");
    moet_fail(MOET_IO, "again: %s", moet_last_error()); /* its argument is the buffer itself */
    assert_string_equal(moet_last_error(), "again: a b c");
    char *lengthy = malloc(5000);
    assert_non_null(lengthy);
    memset(lengthy, 'x', 4999);
    lengthy[4999] = '\0';
    moet_fail(MOET_IO, "%s", lengthy);
    assert_true(strlen(moet_last_error()) < 4999);
    free(lengthy);
    pthread_t thread;
    void *result = "not run";
    assert_int_equal(pthread_create(&thread, NULL, first_error_of_a_thread, NULL), 0);
    pthread_join(thread, &result);
    assert_null(result);
    char why[MOET_REASON_SIZE];
    assert_false(moet_refuse(why, "because\n%d", 7));
    assert_string_equal(why, "because 7");
}

/* ---- SHA-256: the vectors of FIPS 180-4's examples, and every length around a block ---- */

static void test_sha256(void **state)
{
    (void)state;
    static const struct {
        const char *text, *digits;
    } cases[] = {
        {"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
        {"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
        {"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
         "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"},
    };
    char digits[MOET_SHA256_TEXT_SIZE];
    for (int32_t i = 0; i < MOET_COUNT_OF(cases); i++) {
        moet_sha256_text(cases[i].text, strlen(cases[i].text), digits);
        assert_string_equal(digits, cases[i].digits);
    }
    char *million = malloc(1000000);
    assert_non_null(million);
    memset(million, 'a', 1000000);
    moet_sha256_text(million, 1000000, digits);
    assert_string_equal(digits, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
    /* Lengths 0 to 130 of 'a', chained: made with sha256sum. */
    char chain[65 * 131 + 1] = "";
    for (size_t length = 0; length <= 130; length++) {
        moet_sha256_text(million, length, digits);
        strcat(chain, digits);
    }
    moet_sha256_text(chain, strlen(chain), digits);
    assert_string_equal(digits, "5eee4c50e1b5ec4f1a47f34c25ca988850b49da7904f5ab1b3abc5cc0ae66ef9");
    free(million);
}

/* ---- files ---- */

static void test_files(void **state)
{
    (void)state;
    char folder[256], path[300], *bytes = NULL;
    size_t size = 0;
    test_folder_make(folder);
    snprintf(path, sizeof path, "%s/a", folder);
    TEST_FAILS(MOET_NOT_FOUND, path, moet_file_read(path, 100, &bytes, &size));
    TEST_OK(moet_file_replace(path, "one", 3));
    TEST_OK(moet_file_replace(path, "\0two", 4));
    TEST_OK(moet_file_read(path, 4, &bytes, &size));
    assert_int_equal(size, 4);
    assert_memory_equal(bytes, "\0two", 5); /* and a NUL behind it */
    free(bytes);
    bytes = NULL;
    TEST_FAILS(MOET_MALFORMED, "at most 3", moet_file_read(path, 3, &bytes, &size));
    TEST_FAILS(MOET_IO, "not a regular file", moet_file_read(folder, 100, &bytes, &size));
    assert_null(bytes);
    assert_int_equal(test_file_count(folder), 1); /* no temporary is left */
    TEST_OK(moet_file_replace(path, "", 0));
    TEST_OK(moet_file_read(path, 0, &bytes, &size));
    assert_int_equal(size, 0);
    free(bytes);
    /* What cannot be written leaves nothing: the folder is not there, the name is a folder. */
    snprintf(path, sizeof path, "%s/none/a", folder);
    TEST_FAILS(MOET_IO, "none/a", moet_file_replace(path, "x", 1));
    snprintf(path, sizeof path, "%s/b", folder);
    assert_int_equal(mkdir(path, 0777), 0);
    TEST_FAILS(MOET_IO, "nothing was changed", moet_file_replace(path, "x", 1));
    assert_int_equal(test_file_count(folder), 2);
    char *lengthy = malloc(9000);
    assert_non_null(lengthy);
    memset(lengthy, 'a', 8999);
    lengthy[8999] = '\0';
    TEST_FAILS(MOET_IO, "aaaa", moet_file_replace(lengthy, "x", 1));
    free(lengthy);
    test_folder_remove(folder);
}

/* Takes what arrives in a FIFO at `context`, to its end. */
static void *drain(void *context)
{
    static char text[16];
    FILE *fifo = fopen(context, "r");
    memset(text, 0, sizeof text);
    if (fifo) {
        fread(text, 1, sizeof text - 1, fifo);
        fclose(fifo);
    }
    return text;
}

static mode_t mode_of(const char *path)
{
    struct stat info;
    assert_int_equal(lstat(path, &info), 0);
    return info.st_mode;
}

static void assert_content(const char *path, const char *content)
{
    char *bytes = NULL;
    size_t size = 0;
    TEST_OK(moet_file_read(path, 100, &bytes, &size));
    assert_string_equal(bytes, content);
    free(bytes);
}

/* Puts 200000 bytes into the FIFO at `context`, more than a pipe holds and a first buffer has. */
static void *pour(void *context)
{
    static char zeros[1000];
    FILE *fifo = fopen(context, "w");
    for (int32_t i = 0; fifo && i < 200; i++) fwrite(zeros, 1, sizeof zeros, fifo);
    if (fifo) fclose(fifo);
    return NULL;
}

/* To its end, where nothing says its size before. */
static void test_files_streamed(void **state)
{
    (void)state;
    char folder[256], fifo[300], *bytes = NULL;
    size_t size = 0;
    pthread_t writer;
    test_folder_make(folder);
    snprintf(fifo, sizeof fifo, "%s/fifo", folder);
    assert_int_equal(mkfifo(fifo, 0666), 0);
    TEST_FAILS(MOET_IO, "not a regular file",
               moet_file_read(fifo, 100, &bytes, &size)); /* and does not wait for a writer */
    assert_int_equal(pthread_create(&writer, NULL, pour, fifo), 0);
    TEST_OK(moet_file_read_any(fifo, 200000, &bytes, &size));
    pthread_join(writer, NULL);
    assert_int_equal(size, 200000);
    free(bytes);
    TEST_OK(moet_file_read_any("/dev/null", 100, &bytes, &size));
    assert_int_equal(size, 0);
    free(bytes);
    TEST_FAILS(MOET_MALFORMED, "more bytes than the 100000", moet_file_read_any("/dev/zero", 100000, &bytes, &size));
    test_folder_remove(folder);
}

/* A FIFO stays one, links stay, and modes too. */
static void test_files_replaced(void **state)
{
    (void)state;
    char folder[256], file[300], first[300], second[300], hollow[300], fifo[300];
    void *text = NULL;
    pthread_t reader;
    test_folder_make(folder);
    snprintf(file, sizeof file, "%s/file", folder);
    snprintf(first, sizeof first, "%s/first", folder);
    snprintf(second, sizeof second, "%s/second", folder);
    snprintf(hollow, sizeof hollow, "%s/hollow", folder);
    snprintf(fifo, sizeof fifo, "%s/fifo", folder);
    TEST_OK(moet_file_replace(file, "one", 3));
    assert_int_equal(chmod(file, 0640), 0);
    assert_int_equal(symlink("file", first), 0); /* beside the link, not the process's folder */
    assert_int_equal(symlink(first, second), 0);
    TEST_OK(moet_file_replace(second, "two", 3));
    assert_true(S_ISLNK(mode_of(first)) && S_ISLNK(mode_of(second)));
    assert_content(file, "two");
    assert_int_equal(mode_of(file) & 07777, 0640);
    assert_int_equal(symlink("absent", hollow), 0);
    TEST_OK(moet_file_replace(hollow, "new", 3));
    assert_true(S_ISLNK(mode_of(hollow)));
    assert_content(hollow, "new");
    assert_int_equal(mkfifo(fifo, 0666), 0);
    assert_int_equal(pthread_create(&reader, NULL, drain, fifo), 0);
    TEST_OK(moet_file_replace(fifo, "three", 5));
    assert_true(S_ISFIFO(mode_of(fifo)));
    pthread_join(reader, &text);
    assert_string_equal(text, "three");
    assert_int_equal(test_file_count(folder), 6); /* no temporary is left */
    test_folder_remove(folder);
}

static void test_files_check(void **state)
{
    (void)state;
    char folder[256], path[300];
    test_folder_make(folder);
    snprintf(path, sizeof path, "%s/a", folder);
    TEST_OK(moet_file_check(path));
    assert_int_equal(test_file_count(folder), 0);
    TEST_OK(moet_file_replace(path, "one", 3));
    TEST_OK(moet_file_check(path));
    TEST_OK(moet_file_check("a"));
    TEST_FAILS(MOET_IO, folder, moet_file_check(folder));
    TEST_FAILS(MOET_IO, "name of a file", moet_file_check(""));
    snprintf(path, sizeof path, "%s/none/a", folder);
    TEST_FAILS(MOET_IO, "none/a", moet_file_check(path));
    test_folder_remove(folder);
}

/* ---- libraries ---- */

typedef struct fake_api {
    int (*one)(void);
    int (*two)(void);
} fake_api;

static void test_bind(void **state)
{
    (void)state;
    fake_api api = {0};
    static const char *const absent[] = {"libmoet_absent.so.7", "$ORIGIN/libmoet_absent.so", NULL};
    static const char *const fake[] = {"libmoet_absent.so.7", "$ORIGIN/testlib/libmoet_fake.so", NULL};
    static const moet_symbol both[] = {{"moet_fake_one", offsetof(fake_api, one), false},
                                       {"moet_fake_two", offsetof(fake_api, two), false}};
    static const moet_symbol optional[] = {{"moet_fake_one", offsetof(fake_api, one), false},
                                           {"moet_fake_two", offsetof(fake_api, two), true}};
    void *library = NULL;
    TEST_FAILS(MOET_NOT_FOUND, "libmoet_absent.so.7", moet_library_bind(absent, both, 2, &api, &library));
    TEST_CONTAINS(moet_last_error(), "$ORIGIN/libmoet_absent.so");
    TEST_FAILS(MOET_MISMATCH, "moet_fake_two", moet_library_bind(fake, both, 2, &api, &library));
    assert_true(!library && !api.one); /* untouched */
    TEST_OK(moet_library_bind(fake, optional, 2, &api, &library));
    assert_non_null(library);
    assert_null(api.two);
    assert_int_equal(api.one(), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_version),        cmocka_unit_test(test_status),
        cmocka_unit_test(test_sha256),         cmocka_unit_test(test_files),
        cmocka_unit_test(test_files_streamed), cmocka_unit_test(test_files_replaced),
        cmocka_unit_test(test_files_check),    cmocka_unit_test(test_bind),
    };
    return cmocka_run_group_tests_name("core", tests, NULL, NULL);
}

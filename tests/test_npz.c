/* .npy headers, and archives of them as numpy writes: stored, deflated, damaged, cut off. */
#include "test.h"

#include "../tuner/npz.h"

#ifdef MOET_MINIZIP
#include <minizip/zip.h>
#endif

#define PLAIN "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }"

/* A .npy file without data of format major.minor: magic, length, the dict, as numpy pads it. */
static size_t make_header(uint8_t *bytes, int major, int minor, const char *dict)
{
    const size_t begin = major == 1 ? 10 : 12, whole = (begin + strlen(dict) + 1 + 63) / 64 * 64;
    const size_t length = whole - begin;
    memset(bytes, ' ', whole);
    memcpy(bytes, "\x93NUMPY", 6);
    bytes[6] = (uint8_t)major;
    bytes[7] = (uint8_t)minor;
    for (size_t i = 8; i < begin; i++) bytes[i] = (uint8_t)(length >> 8 * (i - 8));
    memcpy(bytes + begin, dict, strlen(dict));
    bytes[whole - 1] = '\n';
    return whole;
}

static moet_status parse(const char *dict, moet_array *array)
{
    uint8_t bytes[1024];
    size_t offset = 0, size_bytes = make_header(bytes, 1, 0, dict);
    moet_status status = moet_npy_parse_header(bytes, size_bytes, "f.npz: array x", array, &offset);
    if (status == MOET_OK) assert_int_equal(offset, size_bytes);
    return status;
}

static void test_header(void **state)
{
    (void)state;
    static const struct {
        const char *descr, *shape;
        char kind;
        int32_t item_bytes, dimensions;
        int64_t elements;
        const char *shape_text, *type_text;
    } rows[] = {
        {"<f4", "(3, 4)", 'f', 4, 2, 12, "[3, 4]", "float32"},
        {"<u2", "(7,)", 'u', 2, 1, 7, "[7]", "uint16"},
        {"<i2", "(2, 0, 5)", 'i', 2, 3, 0, "[2, 0, 5]", "int16"},
        {"|V2", "()", 'V', 2, 0, 1, "[]", "raw16"},
        {"<V2", "(1,2,3,4,5,6,7,8)", 'V', 2, 8, 40320, "[1, 2, 3, 4, 5, 6, 7, 8]", "raw16"},
        {"|i1", "(5,)", 'i', 1, 1, 5, "[5]", "int8"},
        {"|b1", "(5,)", 'b', 1, 1, 5, "[5]", "bool8"},
        {">i1", "(5,)", 'i', 1, 1, 5, "[5]", "int8"},
        {"<i8", "(1099511627776, 8)", 'i', 8, 2, 8796093022208, "[1099511627776, 8]", "int64"},
    };
    for (int32_t i = 0; i < MOET_COUNT_OF(rows); i++) {
        char dict[256], text[MOET_ARRAY_TEXT_SIZE];
        moet_array a;
        snprintf(dict, sizeof dict, "{\"shape\":%s ,'fortran_order': False, 'descr': '%s'}", rows[i].shape,
                 rows[i].descr);
        TEST_OK(parse(dict, &a));
        assert_int_equal(a.kind, rows[i].kind);
        assert_int_equal(a.item_bytes, rows[i].item_bytes);
        assert_int_equal(a.dimensions, rows[i].dimensions);
        assert_int_equal(a.elements, rows[i].elements);
        assert_int_equal(a.size_bytes, rows[i].elements * rows[i].item_bytes);
        moet_array_shape_text(&a, text);
        assert_string_equal(text, rows[i].shape_text);
        moet_array_type_text(&a, text);
        assert_string_equal(text, rows[i].type_text);
    }
}

static void test_formats(void **state)
{
    (void)state;
    uint8_t bytes[1024];
    moet_array a = {.kind = '?'};
    size_t offset = 1;
    size_t size_bytes = make_header(bytes, 2, 0, PLAIN);
    TEST_OK(moet_npy_parse_header(bytes, size_bytes, "x", &a, &offset));
    assert_int_equal(offset, size_bytes);
    assert_int_equal(a.elements, 12);
    /* Every shorter one is refused, and leaves the array alone. Exact sizes, so that a sanitizer sees reads beyond. */
    for (int major = 1; major <= 2; major++) {
        size_bytes = make_header(bytes, major, 0, PLAIN);
        for (size_t cut = 0; cut < size_bytes; cut++) {
            uint8_t *copy = test_allocate(cut + 1);
            uint8_t *exact = copy + 1; /* an array of 0 bytes has an address too */
            memcpy(exact, bytes, cut);
            a.kind = '?';
            TEST_FAILS(MOET_MALFORMED, "cut off", moet_npy_parse_header(exact, cut, "x", &a, &offset));
            assert_int_equal(a.kind, '?');
            free(copy);
        }
    }
    make_header(bytes, 1, 0, PLAIN);
    bytes[0] = 'P';
    TEST_FAILS(MOET_MALFORMED, "x is no .npy", moet_npy_parse_header(bytes, size_bytes, "x", &a, &offset));
    make_header(bytes, 3, 0, PLAIN);
    TEST_FAILS(MOET_MALFORMED, "format 3.0", moet_npy_parse_header(bytes, size_bytes, "x", &a, &offset));
    make_header(bytes, 1, 1, PLAIN);
    TEST_FAILS(MOET_MALFORMED, "format 1.1", moet_npy_parse_header(bytes, size_bytes, "x", &a, &offset));
    make_header(bytes, 2, 0, PLAIN);
    bytes[11] = 1;
    TEST_FAILS(MOET_MALFORMED, "more than 65536", moet_npy_parse_header(bytes, size_bytes, "x", &a, &offset));
}

static void test_refusals(void **state)
{
    (void)state;
    static const struct {
        const char *words, *dict;
    } rows[] = {
        {"big-endian ('>f4')", "{'descr': '>f4', 'fortran_order': False, 'shape': (3, 4), }"},
        {"Fortran order", "{'descr': '<f4', 'fortran_order': True, 'shape': (3, 4), }"},
        {"of type '<c8'", "{'descr': '<c8', 'fortran_order': False, 'shape': (3, 4), }"},
        {"of type '|O'", "{'descr': '|O', 'fortran_order': False, 'shape': (3, 4), }"},
        {"of type '<U7'", "{'descr': '<U7', 'fortran_order': False, 'shape': (3, 4), }"},
        {"of type '<i0'", "{'descr': '<i0', 'fortran_order': False, 'shape': (3, 4), }"},
        {"of type '<i9'", "{'descr': '<i9', 'fortran_order': False, 'shape': (3, 4), }"},
        {"of type '<f4 '", "{'descr': '<f4 ', 'fortran_order': False, 'shape': (3, 4), }"},
        {"of type ''", "{'descr': '', 'fortran_order': False, 'shape': (3, 4), }"},
        {"of type '<'", "{'descr': '<', 'fortran_order': False, 'shape': (3, 4), }"},
        {"structured", "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (3, 4), }"},
        {"more than 8", "{'descr': '<f4', 'fortran_order': False, 'shape': (1,1,1,1,1,1,1,1,1), }"},
        {"too large", "{'descr': '<f4', 'fortran_order': False, 'shape': (4294967296, 4294967296), }"},
        {"too large", "{'descr': '<f8', 'fortran_order': False, 'shape': (9223372036854775807,), }"},
        {"malformed", "{'descr': '<f4', 'fortran_order': False, 'shape': (9223372036854775808,), }"},
        {"malformed", "{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }"},
        {"malformed", "{'descr': '<f4', 'fortran_order': False, 'shape': (3 4), }"},
        {"malformed", "{'descr': '<f4', 'fortran_order': False, 'shape': (,), }"},
        {"malformed", "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), } x"},
        {"malformed", "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4)"},
        {"malformed", "{'descr': '<f4', 'fortran_order': False}"},
        {"malformed", "{'descr': '<f4', 'shape': (3, 4)}"},
        {"malformed", "{'fortran_order': False, 'shape': (3, 4)}"},
        {"malformed", "{'descr': '<f4', 'fortran_order': 0, 'shape': (3, 4)}"},
        {"malformed", "{'descr': '<f4' 'fortran_order': False, 'shape': (3, 4)}"},
        {"malformed", "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), 'colour': 1}"},
        {"malformed", "{'descr': '<f4', 'fortran_order"},
        {"malformed", "{}"},
        {"malformed", "hello"},
        {"malformed", ""},
    };
    for (int32_t i = 0; i < MOET_COUNT_OF(rows); i++) {
        moet_array a;
        TEST_FAILS(MOET_MALFORMED, rows[i].words, parse(rows[i].dict, &a));
        TEST_CONTAINS(moet_last_error(), "f.npz: array x");
    }
}

static void test_integers(void **state)
{
    (void)state;
    static const uint64_t bits[] = {0, 1, UINT64_MAX, 0x8000000000000000u, 0x7fffffffffffffffu};
    moet_array a = {.data = (void *)(uintptr_t)bits, .kind = 'i', .item_bytes = 8};
    assert_true(moet_array_integer(&a, 2) == -1);
    assert_true(moet_array_integer(&a, 3) == INT64_MIN);
    a.kind = 'u';
    assert_true(moet_array_integer(&a, 2) == INT64_MAX);
    assert_true(moet_array_integer(&a, 4) == INT64_MAX);
    a.item_bytes = 1;
    assert_true(moet_array_integer(&a, 16) == 255);
    a.kind = 'i';
    assert_true(moet_array_integer(&a, 16) == -1);
    assert_true(moet_array_integer(&a, 8) == 1);
    a.item_bytes = 4;
    assert_true(moet_array_integer(&a, 7) == INT32_MIN);
}

#ifdef MOET_MINIZIP

static void add_entry(zipFile zip, const char *name, int level, const void *bytes, size_t size_bytes)
{
    zip_fileinfo info = {0};
    assert_int_equal(zipOpenNewFileInZip64(zip, name, &info, NULL, 0, NULL, 0, NULL, level ? Z_DEFLATED : 0, level, 1),
                     ZIP_OK);
    assert_int_equal(zipWriteInFileInZip(zip, bytes, (unsigned)size_bytes), ZIP_OK);
    assert_int_equal(zipCloseFileInZip(zip), ZIP_OK);
}

/* Arrays "plain" [3, 4] of float32 0 to 11, stored; "packed", the same deflated; "short", which lacks a byte of data;
 * and "text.txt", which is none. */
static void make_archive(const char *path)
{
    uint8_t bytes[1024];
    const size_t begin = make_header(bytes, 1, 0, PLAIN);
    for (int32_t i = 0; i < 12; i++) {
        const float value = (float)i;
        memcpy(bytes + begin + 4 * i, &value, 4);
    }
    zipFile zip = zipOpen64(path, APPEND_STATUS_CREATE);
    assert_non_null(zip);
    add_entry(zip, "plain.npy", 0, bytes, begin + 48);
    add_entry(zip, "packed.npy", 6, bytes, begin + 48);
    add_entry(zip, "short.npy", 0, bytes, begin + 47);
    add_entry(zip, "text.txt", 0, "hello", 5);
    assert_int_equal(zipClose(zip, NULL), ZIP_OK);
}

static void check_plain(const moet_npz *npz, const char *name)
{
    moet_array a;
    TEST_OK(moet_npz_read(npz, name, &a));
    assert_int_equal(a.size_bytes, 48);
    for (int32_t i = 0; i < 12; i++) assert_true(((const float *)a.data)[i] == (float)i);
    moet_array_release(&a);
}

static void test_archive(void **state)
{
    (void)state;
    char folder[256], path[300];
    moet_npz npz = {0};
    moet_array a;
    test_folder_make(folder);
    snprintf(path, sizeof path, "%s/a.npz", folder);
    make_archive(path);
    TEST_OK(moet_npz_open(path, &npz));
    assert_int_equal(npz.count, 4);
    assert_string_equal(npz.names[3], "text.txt");
    assert_true(moet_npz_has(&npz, "plain"));
    assert_false(moet_npz_has(&npz, "Plain"));
    for (int32_t again = 0; again < 2; again++) {
        check_plain(&npz, "packed");
        check_plain(&npz, "plain");
    }
    TEST_FAILS(MOET_NOT_FOUND, "array absent", moet_npz_read(&npz, "absent", &a));
    TEST_FAILS(MOET_MALFORMED, "47 bytes of data, its shape wants 48", moet_npz_read(&npz, "short", &a));
    moet_npz_close(&npz);
    moet_npz_close(&npz);
    test_folder_remove(folder);
}

/* Whatever a cut or a changed byte leaves readable must be what was there: checksums, or an error. */
static void test_damage(void **state)
{
    (void)state;
    char folder[256], path[300];
    size_t size_bytes = 0;
    test_folder_make(folder);
    snprintf(path, sizeof path, "%s/a.npz", folder);
    make_archive(path);
    char *bytes = test_file_read(path, &size_bytes);
    moet_npz npz = {0};
    for (size_t cut = 0; cut < size_bytes; cut += 7) {
        test_file_write(path, bytes, cut);
        TEST_FAILS(MOET_MALFORMED, cut < 4 ? "no .npz" : "cut off", moet_npz_open(path, &npz));
    }
    int32_t damaged = 0;
    for (size_t at = 0; at < size_bytes; at++) {
        moet_array a;
        bytes[at] ^= 0x40;
        test_file_write(path, bytes, size_bytes);
        bytes[at] ^= 0x40;
        if (moet_npz_open(path, &npz) != MOET_OK) {
            damaged++;
            continue;
        }
        if (moet_npz_has(&npz, "packed") && moet_npz_read(&npz, "packed", &a) == MOET_OK) {
            moet_array_release(&a);
            check_plain(&npz, "packed");
        } else {
            damaged++;
        }
        moet_npz_close(&npz);
    }
    assert_true(damaged > 50);
    free(bytes);
    TEST_FAILS(MOET_IO, folder, moet_npz_open(folder, &npz));
    snprintf(path, sizeof path, "%s/absent.npz", folder);
    TEST_FAILS(MOET_NOT_FOUND, "absent.npz", moet_npz_open(path, &npz));
    test_folder_remove(folder);
}

#else

static void test_archive(void **state)
{
    (void)state;
    moet_npz npz = {0};
    TEST_FAILS(MOET_UNSUPPORTED, "libminizip-dev", moet_npz_open("a.npz", &npz));
}

static void test_damage(void **state) { (void)state; }

#endif

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_header),   cmocka_unit_test(test_formats), cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_integers), cmocka_unit_test(test_archive), cmocka_unit_test(test_damage),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* The table reader: a good table, each refusal with expected and actual, every kind of damage, the lookup. */
#include "table_text.h"
#include "test.h"

#include <math.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../src/module.h"
#include "../src/table.h"

static moet_device *host;
static moet_problem problem;
static const int32_t balanced[4] = {16, 16, 16, 16}, skewed[4] = {61, 1, 1, 1}, large[4] = {256, 256, 256, 256};
#define DIGITS "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
static char config_text[3][MOET_CONFIG_SIZE], validator[3][64];

static int group_open(void **state)
{
    (void)state;
    moet_problem_init(&problem, MOET_OP_UP, 4, 64, 32);
    return moet_device_open("host", &host) != MOET_OK;
}

static int group_close(void **state)
{
    (void)state;
    moet_device_close(host);
    return 0;
}

/* Winners: three configs of the host's tunable family. */
static text_winner winner(int32_t index, int64_t time_ns)
{
    const moet_family *family = moet_family_find("host_tile");
    assert_non_null(family);
    moet_config config;
    moet_config_first(family, &config);
    for (int32_t i = 0; i < index; i++) assert_true(moet_config_next(&config));
    return text_winner_of(&config, config_text[index], validator[index], time_ns);
}

static char *good_table(void)
{
    text_point points[] = {
        {.counts = balanced, .any = winner(0, 1000)},
        {.counts = skewed, .any = winner(1, 2000)},
        {.counts = large, .any = winner(2, 3000)},
    };
    return text_table(host, &problem, points, 3, NULL, 0);
}

static moet_status parse(const char *text, bool checks_hash, moet_table **table)
{
    return moet_table_parse(text, strlen(text), NULL, checks_hash, host, table);
}

static void test_good(void **state)
{
    (void)state;
    char folder[256];
    test_folder_make(folder);
    char *text = good_table();
    text_write(folder, text);
    moet_table *table;
    TEST_OK(moet_table_load(folder, host, &table));
    assert_int_equal(table->problem_count, 1);
    assert_int_equal(table->entry_count, 3);
    assert_int_equal(table->refusal_count, 0);
    assert_non_null(strstr(text, table->hash));
    const moet_table_problem *p = moet_table_find(table, &problem);
    assert_non_null(p);
    assert_int_equal(p->point_count, 3);
    assert_memory_equal(p->points[1].counts, skewed, sizeof skewed);
    assert_true(p->points[0].winner[MOET_TABLE_ANY].present);
    assert_false(p->points[0].winner[MOET_TABLE_DEVICE_COUNTS].present);
    assert_int_equal(p->points[2].winner[MOET_TABLE_ANY].time_ns, 3000);
    moet_problem other = problem;
    other.hidden += 8;
    assert_null(moet_table_find(table, &other));
    other = problem;
    other.numerics = MOET_NUMERICS_FAST;
    assert_null(moet_table_find(table, &other));
    moet_table_close(table);
    moet_table_close(NULL);
    assert_int_equal(test_file_count(folder), 1); /* reading writes nothing */
    free(text);
    test_folder_remove(folder);
}

/* ---- one by one: refused, the rest serves ---- */

static void one_refusal(const char *from, const char *to, const char *words)
{
    char *text = text_replace(good_table(), from, to);
    text_rehash(text);
    moet_table *table;
    TEST_OK(parse(text, true, &table));
    assert_int_equal(table->entry_count, 2);
    assert_int_equal(table->refusal_count, 1);
    TEST_CONTAINS(table->refusals[0], words);
    TEST_CONTAINS(table->refusals[0], "rows=64");
    TEST_CONTAINS(table->refusals[0], "op=up,experts=4");
    assert_null(strchr(table->refusals[0], '\n'));
    moet_table_close(table);
    free(text);
}

static void test_refusals(void **state)
{
    (void)state;
    char version[64], wrong_version[64], text_validator[96], wrong[256];
    winner(0, 1);
    int32_t known = moet_family_find("host_tile")->version;
    snprintf(version, sizeof version, "\"version\":%d,\"validator\"", known);
    snprintf(wrong_version, sizeof wrong_version, "\"version\":%d,\"validator\"", known + 7);
    snprintf(wrong, sizeof wrong, "version %d expected, %d found", known + 7, known);
    one_refusal(version, wrong_version, wrong);
    snprintf(text_validator, sizeof text_validator, "\"validator\":\"%s\"", validator[0]);
    one_refusal(text_validator, "\"validator\":\"somelib 3\"", "somelib 3 expected");
    one_refusal("\"config\":\"host_tile:", "\"config\":\"magic_tile:", "no kernel family 'magic_tile'");
    one_refusal("\"config\":\"host_tile:", "\"config\":\"host_tile:warp=9,", "'warp' is no parameter");
}

/* What differs is said, however long what is equal before it. */
static void test_other_device(void **state)
{
    (void)state;
    static const char *const changes[][3] = {
        {"\"key\":\"backend=host", "\"key\":\"backend=mill", "made for another device: backend=mill,"},
        {",partition=", ",partition=less than ", "made for another device: partition=less than "}};
    for (int32_t i = 0; i < MOET_COUNT_OF(changes); i++) {
        char *text = text_replace(good_table(), changes[i][0], changes[i][1]);
        text_rehash(text);
        moet_table *table;
        TEST_OK(parse(text, true, &table));
        assert_int_equal(table->entry_count, 0);
        assert_int_equal(table->problem_count, 0);
        assert_int_equal(table->refusal_count, 3);
        TEST_CONTAINS(table->refusals[0], changes[i][2]);
        TEST_CONTAINS(table->refusals[0], i ? "expected, partition=" : "expected, backend=host,");
        moet_table_close(table);
        free(text);
    }
}

/* A member that this version does not know is passed over. */
static void test_unknown_member(void **state)
{
    (void)state;
    char *text = text_replace(good_table(), "\"workload\":", "\"colour\":[1,{\"deep\":\"red\"}],\"workload\":");
    text_rehash(text);
    moet_table *table;
    TEST_OK(parse(text, true, &table));
    assert_int_equal(table->entry_count, 3);
    moet_table_close(table);
    free(text);
}

/* ---- as a whole ---- */

static void malformed(const char *from, const char *to, const char *words)
{
    char *text = text_replace(good_table(), from, to);
    moet_table *table = (moet_table *)&problem; /* must stay */
    TEST_FAILS(MOET_MALFORMED, words, parse(text, false, &table));
    TEST_CONTAINS(moet_last_error(), "table.json");
    assert_ptr_equal(table, &problem);
    free(text);
}

static void test_malformed(void **state)
{
    (void)state;
    malformed("moe-tune table", "moe-tune chair", "no moe-tune table");
    malformed("\"format\"", "\"formal\"", "\"format\" is missing");
    malformed("\"version\":2,\n", "\"version\":\"2\",\n", "\"version\" has the wrong type");
    malformed("\"version\":2,\n", "\"version\":2.5,\n", "\"version\" is no integer");
    malformed("\"version\":2,\n", "\"version\":2,\"version\":2,\n", "\"version\" stands twice");
    malformed("\"hash\":\"", "\"hash\":\"X", "hash");
    malformed("\"parent\":null", "\"parent\":\"abc\"", "parent");
    malformed("\"devices\":[{", "\"devices\":[7,{", "devices[0]");
    malformed("\"devices\":[", "\"devices\":{},\"x\":[", "\"devices\" has the wrong type");
    malformed("\"sm_count\":", "\"sm_count\":-", "sm_count");
    malformed("\"memory_bytes\":", "\"memory_bytes\":1e99,\"z\":", "memory_bytes");
    malformed("\"ceilings\":{", "\"ceilings\":{\"dense_flops_per_s\":0,", "stands twice");
    malformed("\"problems\":[", "\"problems\":[null,", "problems[0]");
    malformed("\"key\":\"op=up", "\"key\":\"up", "'op=' expected");
    malformed("\"points\":[\n", "\"points\":[\n3,", "points[0]");
    malformed("\"rows\":64", "\"rows\":65", "the counts say rows 64");
    malformed("\"rows\":64", "\"rows\":0", "\"rows\" is 0");
    malformed("\"rows\":64", "\"rows\":1048577", "\"rows\" is 1048577");
    malformed("\"active\":4", "\"active\":3", "active 4");
    malformed("\"max\":16", "\"max\":17", "max 16");
    malformed("[16,16,16,16]", "[16,16,16]", "3 counts for 4 experts");
    malformed("[16,16,16,16]", "[16,16,16,16,0]", "5 counts for 4 experts");
    malformed("[16,16,16,16]", "[-16,48,16,16]", "counts");
    malformed("[16,16,16,16]", "[16,16,16,16.5]", "no integer");
    malformed("[16,16,16,16]", "[16,16,16,\"16\"]", "counts");
    malformed("\"config\":\"", "\"config\":3,\"x\":\"", "\"config\" has the wrong type");
#define CUBIN "{\"sha256\":\"" DIGITS "\",\"arch\":\"sm_90a\"}"
    malformed("\"cubins\":[]", "\"cubins\":[{\"sha256\":\"../../etc/passwd\",\"arch\":\"sm_90\"}]", "no SHA-256");
    malformed("\"cubins\":[]", "\"cubins\":[" CUBIN ",{\"sha256\":\"" DIGITS "\"}]", "\"arch\" is missing");
    malformed("\"cubins\":[]", "\"cubins\":[" CUBIN ",{\"sha256\":null,\"arch\":\"sm_90\"}]", "wrong type");
    malformed("\"cubins\":[]", "\"cubins\":[" CUBIN ",{\"sha256\":\"" DIGITS "\",\"arch\":\"0123456789abcdef\"}]",
              "longer than");
    malformed("\"cubins\":[]", "\"cubins\":[\"" DIGITS "\"]", "cubins[0]");
    malformed("\"cubins\":[]", "\"cubins\":null", "\"cubins\" has the wrong type");
    malformed("\"cubins\":[]", "\"cubins\":[" CUBIN "," CUBIN "," CUBIN "," CUBIN "," CUBIN "]", "5 cubins");
    malformed("\"cubins\":[]", "\"cubin\":null,\"arch\":null", "\"cubins\" is missing"); /* as version 1 had it */
    malformed("\"time_ns\":1000", "\"time_ns\":0", "\"time_ns\" is 0");
    malformed("\"time_ns\":1000", "\"time_ns\":-4", "time_ns");
    malformed("\"noise_ns\":10", "\"noise_ns\":-1", "noise_ns");
    malformed("\"device_counts\":false", "\"device_counts\":0", "device_counts");
    malformed("\"default_time_ns\":null", "\"default_time_ns\":0", "default_time_ns");
    malformed("\"defaults\":[", "\"defaults\":[[]", "defaults[0]");
    malformed("\"any\":{", "\"any\":[],\"y\":{", "\"any\" has the wrong type");
    malformed("\"rates\":{", "\"rates\":7,\"more\":{", "\"rates\" has the wrong type");
    malformed("\"launches_per_s\":100000", "\"launches_per_s\":0", "\"launches_per_s\" must be");
    malformed("\"l2_bytes_per_s\"", "\"l3_bytes_per_s\"", "\"l2_bytes_per_s\" must be");
#define OTHERS "\"default_time_ns\":null,\"others\":"
    malformed("\"default_time_ns\":null", OTHERS "7", "\"others\" has the wrong type");
    malformed("\"default_time_ns\":null", OTHERS "[],\"others\":[]", "\"others\" stands twice");
    malformed("\"default_time_ns\":null", OTHERS "[7]", "others[0]: an object of");
    malformed("\"default_time_ns\":null", OTHERS "[{\"config\":\"x\"}]", "others[0]: an object of");
    malformed("\"default_time_ns\":null", OTHERS "[{\"config\":\"x\",\"time_ns\":1},{\"config\":\"x\",\"time_ns\":0}]",
              "others[1]: \"time_ns\" must be");
    malformed("\"default_time_ns\":null", OTHERS "[{\"config\":\"x\",\"time_ns\":1.5}]", "others[0]: \"time_ns\"");
}

/* ---- format version 1 ---- */

static void malformed_1(const char *from, const char *to, const char *words)
{
    text_point points[] = {{.counts = balanced, .any = winner(0, 1000)}};
    char *text = text_replace(text_table_of_version(1, host, &problem, points, 1, NULL, 0), from, to);
    moet_table *table;
    TEST_FAILS(MOET_MALFORMED, words, parse(text, false, &table));
    free(text);
}

/* Tables of the first version keep serving, with their cubins as lists of one. */
static void test_version_1(void **state)
{
    (void)state;
    char folder[256], path[512], digits[MOET_SHA256_TEXT_SIZE];
    static const char image[] = "compiled for this machine";
    moet_sha256_text(image, sizeof image, digits);
    text_point points[] = {{.counts = balanced, .any = winner(0, 1000)}, {.counts = skewed, .any = winner(1, 2000)}};
    points[1].any.cubins[0].sha256 = digits;
    points[1].any.cubins[0].arch = "sm_0";
    char *text = text_table_of_version(1, host, &problem, points, 2, &points[1].any, 1);
    TEST_CONTAINS(text, "\"version\":1,\n");
    TEST_CONTAINS(text, "\"cubin\":null,\"arch\":null");
    moet_table *table;
    test_folder_make(folder);
    text_write(folder, text);
    TEST_FAILS(MOET_NOT_FOUND, digits, moet_table_load(folder, host, &table));
    snprintf(path, sizeof path, "%s/%s.cubin", folder, digits);
    test_file_write(path, image, sizeof image);
    TEST_OK(moet_table_load(folder, host, &table));
    assert_int_equal(table->entry_count, 2);
    assert_int_equal(table->refusal_count, 0);
    const moet_table_problem *p = moet_table_find(table, &problem);
    assert_int_equal(p->points[0].winner[MOET_TABLE_ANY].cubin_count, 0);
    const moet_table_winner *compiled = &p->points[1].winner[MOET_TABLE_ANY];
    assert_int_equal(compiled->cubin_count, 1);
    assert_memory_equal(compiled->cubins[0]->bytes, image, sizeof image);
    assert_string_equal(compiled->cubins[0]->arch, "sm_0");
    assert_int_equal(p->default_count, 1);
    assert_int_equal(p->defaults[0].cubin_count, 1);
    assert_ptr_equal(p->defaults[0].cubins[0], compiled->cubins[0]);
    moet_table_close(table);
    free(text);
    test_folder_remove(folder);
    malformed_1("\"cubin\":null", "\"cubin\":\"../../etc/passwd\"", "cubin");
    malformed_1("\"cubin\":null,\"arch\":null", "\"cubin\":null,\"arch\":\"sm_90a\"", "both");
    malformed_1("\"cubin\":null,\"arch\":null", "\"cubin\":\"" DIGITS "\",\"arch\":null", "both");
    malformed_1("\"cubin\":null,\"arch\":null", "\"cubins\":[]", "\"cubin\" is missing"); /* of version 2 */
}

static void test_repeats(void **state)
{
    (void)state;
    char *text = good_table();
    /* The same problem twice in one device. */
    char *problems = strstr(text, "\"problems\":[") + strlen("\"problems\":["), *end = strstr(text, "]}]}]\n}");
    assert_non_null(end);
    size_t size = 2 * strlen(text);
    char *twice = malloc(size);
    assert_non_null(twice);
    int head = (int)(end + 2 - text);
    snprintf(twice, size, "%.*s,%.*s%s", head, text, (int)(end + 2 - problems), problems, end + 2);
    moet_table *table;
    TEST_FAILS(MOET_MALFORMED, "twice", parse(twice, false, &table));
    free(twice);
    free(text);
}

static void test_deep_and_long(void **state)
{
    (void)state;
    char *deep = malloc(3000000);
    assert_non_null(deep);
    moet_table *table;
    for (int32_t depth = 100; depth <= 1000000; depth *= 100) {
        memset(deep, '[', (size_t)depth);
        memset(deep + depth, ']', (size_t)depth);
        deep[2 * depth] = '\0';
        TEST_FAILS(MOET_MALFORMED, NULL, parse(deep, true, &table));
    }
    free(deep);
    char nested[256] = "\"x\":";
    for (int32_t i = 0; i < 20; i++) strcat(nested, "[");
    for (int32_t i = 0; i < 20; i++) strcat(nested, "]");
    strcat(nested, ",\"workload\":");
    malformed("\"workload\":", nested, "nested deeper");
    char longtext[1400] = "\"skew\":\"";
    memset(longtext + 8, 'a', 1100);
    strcpy(longtext + 1108, "\",\"s\":\"");
    malformed("\"skew\":\"", longtext, "longer than");
}

static void test_text_behind_the_end(void **state)
{
    (void)state;
    malformed("]}]}]\n}\n", "]}]}]\n}\n{}", "more text");
}

/* Cut at every byte: never taken, never a crash. */
static void test_truncated(void **state)
{
    (void)state;
    char *text = good_table();
    size_t size = strlen(text);
    moet_table *table;
    for (size_t length = 0; length + 1 < size; length++) { /* the last byte is a newline */
        char *cut = malloc(length ? length : 1); /* its own memory: a read past the end shows under a sanitizer */
        assert_non_null(cut);
        memcpy(cut, text, length);
        moet_status status = moet_table_parse(cut, length, NULL, true, host, &table);
        if (status != MOET_MALFORMED && !(status == MOET_MISMATCH && length + 1 == size))
            test_fail("cut at %zu of %zu: %s", length, size, moet_status_name(status));
        free(cut);
    }
    free(text);
}

/* Any byte changed: malformed, or the hash tells. */
static void test_corrupt(void **state)
{
    (void)state;
    char *text = good_table();
    size_t size = strlen(text);
    moet_table *table;
    static const char flips[] = {1, 0x20, (char)0x80};
    for (size_t at = 0; at < size; at++) {
        for (int32_t f = 0; f < MOET_COUNT_OF(flips); f++) {
            text[at] = (char)(text[at] ^ flips[f]);
            moet_status status = moet_table_parse(text, size, NULL, true, host, &table);
            if (status != MOET_MALFORMED && status != MOET_MISMATCH)
                test_fail("byte %zu changed: %s", at, moet_status_name(status));
            /* Without the hash: whatever it makes of it, no crash. */
            if (moet_table_parse(text, size, NULL, false, host, &table) == MOET_OK) moet_table_close(table);
            text[at] = (char)(text[at] ^ flips[f]);
        }
    }
    TEST_OK(parse(text, true, &table));
    moet_table_close(table);
    free(text);
}

static void test_hash_and_version(void **state)
{
    (void)state;
    moet_table *table;
    char *text = text_replace(good_table(), "\"time_ns\":1000", "\"time_ns\":1001");
    TEST_FAILS(MOET_MISMATCH, "its hash says", parse(text, true, &table));
    TEST_CONTAINS(moet_last_error(), "emit the table again");
    TEST_OK(parse(text, false, &table));
    moet_table_close(table);
    free(text);
    text = text_replace(good_table(), "\"version\":2,\n", "\"version\":3,\n");
    text_rehash(text);
    TEST_FAILS(MOET_MISMATCH, "version 2 or older expected, 3 found", parse(text, true, &table));
    free(text);
}

static void test_folders(void **state)
{
    (void)state;
    char folder[256], path[512];
    moet_table *table = (moet_table *)&problem;
    TEST_FAILS(MOET_NOT_FOUND, "no such file", moet_table_load("/nowhere/at/all", host, &table));
    test_folder_make(folder);
    TEST_FAILS(MOET_NOT_FOUND, "table.json", moet_table_load(folder, host, &table));
    snprintf(path, sizeof path, "%s/table.json", folder);
    assert_int_equal(mkdir(path, 0777), 0);
    TEST_FAILS(MOET_IO, "not a regular file", moet_table_load(folder, host, &table));
    assert_int_equal(rmdir(path), 0);
    test_file_write(path, "", 0);
    TEST_FAILS(MOET_MALFORMED, "table.json", moet_table_load(folder, host, &table));
    char *longpath = malloc(9000);
    assert_non_null(longpath);
    memset(longpath, 'a', 8999);
    longpath[8999] = '\0';
    TEST_FAILS(MOET_IO, "aaaa", moet_table_load(longpath, host, &table));
    free(longpath);
    assert_ptr_equal(table, &problem);
    test_folder_remove(folder);
}

/* ---- cubins ---- */

/* A family that compiles three kernels: the first belongs to the layout, the second to the config, the third to
 * nothing, as helper kernels do. */
static const char *const sizes[] = {"1", "2", NULL};
static const moet_param made_up_params[] = {{"size", sizes, MOET_SEARCH_FIRST}};
static bool made_up_source(const moet_problem *of, const moet_config *config, int32_t cc_major, int32_t cc_minor,
                           int32_t index, moet_source *source)
{
    static const char texts[3][8] = {"up", "down", "helper"};
    (void)cc_major, (void)cc_minor;
    if (index >= 3) return false;
    *source = (moet_source){.name = "made_up.cu", .text = texts[index], .arch = "sm_90a"};
    if (index == 0) moet_source_option(source, "-DLAYOUT=%d", of->layout);
    if (index == 1) moet_source_option(source, "-DSIZE=%s", moet_config_text(config, 0));
    return true;
}
static const moet_family made_up = {
    .name = "made_up", .params = made_up_params, .param_count = 1, .source = made_up_source};

/* An untuned problem gets all kernels of a config, each from where the same is compiled, or none. */
static void test_default_cubins(void **state)
{
    (void)state;
    moet_device gpu = {.info = {.backend = "cuda", .cc_major = 9}};
    moet_cubin cubins[6];
    moet_config one = {.family = &made_up, .value = {0}}, two = {.family = &made_up, .value = {1}};
    moet_table_default defaults[2] = {
        {.config = one, .cubin_count = 3, .cubins = {&cubins[0], &cubins[1], &cubins[2]}},
        {.config = two, .cubin_count = 3, .cubins = {&cubins[3], &cubins[4], &cubins[5]}},
    };
    moet_table_problem problems[2] = {
        {.problem = problem, .default_count = 1, .defaults = &defaults[0]},
        {.problem = problem, .default_count = 1, .defaults = &defaults[1]},
    };
    problems[1].problem.layout = MOET_LAYOUT_KN;
    moet_table table = {.problem_count = 1, .problems = problems};
    const moet_cubin *list[MOET_MAX_CUBINS] = {NULL};
    moet_problem other = problem;
    other.experts = 8;
    assert_int_equal(moet_table_default_cubins(&table, &other, &one, &gpu, list), 3);
    for (int32_t i = 0; i < 3; i++) assert_ptr_equal(list[i], &cubins[i]);
    assert_int_equal(moet_table_default_cubins(&table, &other, &two, &gpu, list), 0); /* lacks the second */
    other.layout = MOET_LAYOUT_KN;
    assert_int_equal(moet_table_default_cubins(&table, &other, &one, &gpu, list), 0); /* lacks the first */
    table.problem_count = 2;
    assert_int_equal(moet_table_default_cubins(&table, &other, &one, &gpu, list), 3);
    assert_ptr_equal(list[0], &cubins[3]);
    assert_ptr_equal(list[1], &cubins[1]);
    assert_ptr_equal(list[2], &cubins[2]);
    moet_config plain = {.family = moet_family_find("host_tile")};
    assert_int_equal(moet_table_default_cubins(&table, &problem, &plain, &gpu, list), 0);
}

/* ---- cubins: on a made-up GPU ---- */

#ifdef MOET_CUDA
static void test_cubins(void **state)
{
    (void)state;
    moet_device gpu = {.info = {.backend = "cuda",
                                .name = "Made-up GPU",
                                .cc_major = 9,
                                .sm_count = 132,
                                .memory_bytes = (int64_t)80 << 30,
                                .smem_per_block_optin_bytes = 232448}};
    moet_device_format_key(&gpu.info, gpu.key);
    const moet_family *family = moet_family_find("mma_gemm");
    assert_non_null(family);
    moet_config config = {.family = family};
    family->default_config(&problem, 64, &gpu.info, &config);
    char config_name[MOET_CONFIG_SIZE], library[64], folder[256], path[512], digits[MOET_SHA256_TEXT_SIZE];
    static const char image[] = "not really a cubin";
    moet_sha256_text(image, sizeof image, digits);
    text_winner w = text_winner_of(&config, config_name, library, 5000);
    w.cubins[0].sha256 = digits;
    w.cubins[0].arch = "sm_90a";
    w.device_counts = true;
    text_point points[] = {{.counts = balanced, .any = w, .device_counts = w}};
    char *text = text_table(&gpu, &problem, points, 1, &w, 1);
    moet_table *table;
    test_folder_make(folder);
    text_write(folder, text);
    TEST_FAILS(MOET_NOT_FOUND, digits, moet_table_load(folder, &gpu, &table));
    snprintf(path, sizeof path, "%s/%s.cubin", folder, digits);
    test_file_write(path, image, sizeof image - 1);
    TEST_FAILS(MOET_MISMATCH, "SHA-256", moet_table_load(folder, &gpu, &table));
    test_file_write(path, image, sizeof image);
    TEST_OK(moet_table_load(folder, &gpu, &table));
    assert_int_equal(table->entry_count, 2);
    assert_int_equal(table->cubin_count, 1); /* read once */
    const moet_table_problem *p = moet_table_find(table, &problem);
    assert_int_equal(p->points[0].winner[MOET_TABLE_ANY].cubin_count, 1);
    const moet_cubin *cubin = p->points[0].winner[MOET_TABLE_ANY].cubins[0], *list[MOET_MAX_CUBINS];
    assert_non_null(cubin);
    assert_int_equal(cubin->size_bytes, sizeof image);
    assert_memory_equal(cubin->bytes, image, sizeof image);
    assert_string_equal(cubin->arch, "sm_90a");
    /* The default's cubin serves a problem that compiles the same, not one that compiles otherwise. */
    moet_problem other = problem;
    other.experts = 8;
    assert_int_equal(moet_table_default_cubins(table, &other, &config, &gpu, list), 1);
    assert_ptr_equal(list[0], cubin);
    other.layout = MOET_LAYOUT_KN;
    assert_int_equal(moet_table_default_cubins(table, &other, &config, &gpu, list), 0);
    moet_config plain = {.family = moet_family_find("host_tile")};
    assert_int_equal(moet_table_default_cubins(table, &problem, &plain, &gpu, list), 0);
    moet_table_close(table);

    /* Another architecture. */
    static const struct {
        const char *arch;
        bool runs;
    } cases[] = {{"sm_90", true},    {"sm_90a", true},  {"sm_80", false},
                 {"sm_100a", false}, {"sm_90x", false}, {"ptx", false}};
    for (int32_t i = 0; i < MOET_COUNT_OF(cases); i++) {
        points[0].any.cubins[0].arch = points[0].device_counts.cubins[0].arch = cases[i].arch;
        char *again = text_table(&gpu, &problem, points, 1, NULL, 0);
        TEST_OK(moet_table_parse(again, strlen(again), NULL, true, &gpu, &table));
        assert_int_equal(table->entry_count, cases[i].runs ? 2 : 0);
        assert_int_equal(table->refusal_count, cases[i].runs ? 0 : 2);
        if (!cases[i].runs) TEST_CONTAINS(table->refusals[0], "compute capability 9.0");
        moet_table_close(table);
        free(again);
    }
    /* More kernels than the config has. */
    points[0].any.cubins[0].arch = "sm_90a";
    points[0].any.cubins[1].sha256 = digits;
    points[0].any.cubins[1].arch = "sm_90";
    points[0].device_counts.cubins[0].arch = "sm_90a";
    char *two = text_table(&gpu, &problem, points, 1, NULL, 0);
    TEST_OK(moet_table_parse(two, strlen(two), NULL, true, &gpu, &table));
    assert_int_equal(table->entry_count, 1);
    assert_int_equal(table->refusal_count, 1);
    TEST_CONTAINS(table->refusals[0], "1 compiled kernels expected, 2 found");
    moet_table_close(table);
    free(two);
    /* One of several is for another architecture. */
    points[0].any.cubins[1].arch = "sm_80";
    two = text_table(&gpu, &problem, points, 1, NULL, 0);
    TEST_OK(moet_table_parse(two, strlen(two), NULL, true, &gpu, &table));
    assert_int_equal(table->refusal_count, 1);
    TEST_CONTAINS(table->refusals[0], "kernel for sm_80 expected");
    moet_table_close(table);
    free(two);
    free(text);
    test_folder_remove(folder);
}
#endif

/* ---- lookup ---- */

/* Index of the nearest point, -1 for none. */
static int32_t nearest(const moet_table_problem *p, const bool *usable, int64_t rows, double max_over_mean,
                       double *distance)
{
    moet_table_neighbor list[MOET_TABLE_NEIGHBORS];
    if (moet_table_nearest(p, usable, rows, max_over_mean, list) == 0) return -1;
    *distance = list[0].distance;
    return list[0].point;
}

static void test_lookup(void **state)
{
    (void)state;
    char *text = good_table();
    moet_table *table;
    TEST_OK(parse(text, true, &table));
    const moet_table_problem *p = moet_table_find(table, &problem);
    double distance = -1;
    for (int32_t i = 0; i < p->point_count; i++) { /* each point finds itself */
        const moet_table_point *at = &p->points[i];
        assert_int_equal(nearest(p, NULL, at->rows, at->max_over_mean, &distance), i);
        assert_true(distance == 0);
    }
    /* rows 100, balanced: ln(100/64) to the first, more to the others. */
    assert_int_equal(nearest(p, NULL, 100, 1, &distance), 0);
    assert_true(fabs(distance - log(100.0 / 64)) < 1e-12);
    /* The same rows, another skew. */
    assert_int_equal(nearest(p, NULL, 64, 3, &distance), 1);
    assert_true(fabs(distance - log(3.8125 / 3)) < 1e-12);
    /* Both differ. */
    assert_int_equal(nearest(p, NULL, 900, 1.5, &distance), 2);
    assert_true(fabs(distance - hypot(log(1024.0 / 900), log(1.5))) < 1e-12);
    /* The limit: four times the rows, no further. */
    assert_int_equal(nearest(p, NULL, 4096, 1, &distance), 2);
    assert_int_equal(nearest(p, NULL, 4100, 1, &distance), -1);
    assert_int_equal(nearest(p, NULL, 15, 1, &distance), -1);
    assert_int_equal(nearest(p, NULL, 16, 1, &distance), 0);
    /* Sixteen times the skew, no further. */
    assert_int_equal(nearest(p, NULL, 64, 60, &distance), 1);
    assert_int_equal(nearest(p, NULL, 64, 62, &distance), -1);
    /* Between two points, the nearer by logarithm: 256 = sqrt(64 * 1024), ties to the first. */
    assert_int_equal(nearest(p, NULL, 255, 1, &distance), 0);
    assert_int_equal(nearest(p, NULL, 257, 1, &distance), 2);
    /* Just four times, which logarithms round up. */
    const bool first[] = {true, false, false};
    assert_int_equal(nearest(p, first, 256, 1, &distance), 0);
    assert_int_equal(nearest(p, first, 257, 1, &distance), -1);
    /* Points that are not usable are passed over. */
    const bool usable[] = {false, true, true};
    assert_int_equal(nearest(p, usable, 64, 1, &distance), 1);
    assert_int_equal(nearest(p, usable, 16, 1, &distance), 1); /* a corner of what is near */
    assert_int_equal(nearest(p, usable, 15, 1, &distance), -1);
    /* All that are near, in order. */
    moet_table_neighbor list[MOET_TABLE_NEIGHBORS];
    assert_int_equal(moet_table_nearest(p, NULL, 64, 1.98, list), 2);
    assert_int_equal(list[0].point, 1);
    assert_int_equal(list[1].point, 0);
    assert_true(list[0].distance < list[1].distance);
    moet_table_close(table);
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_good),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_other_device),
        cmocka_unit_test(test_unknown_member),
        cmocka_unit_test(test_malformed),
        cmocka_unit_test(test_version_1),
        cmocka_unit_test(test_repeats),
        cmocka_unit_test(test_deep_and_long),
        cmocka_unit_test(test_text_behind_the_end),
        cmocka_unit_test(test_truncated),
        cmocka_unit_test(test_corrupt),
        cmocka_unit_test(test_hash_and_version),
        cmocka_unit_test(test_folders),
        cmocka_unit_test(test_default_cubins),
#ifdef MOET_CUDA
        cmocka_unit_test(test_cubins),
#endif
        cmocka_unit_test(test_lookup),
    };
    return cmocka_run_group_tests_name("table", tests, group_open, group_close);
}

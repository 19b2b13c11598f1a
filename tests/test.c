#include "test.h"

#include <dirent.h>
#include <errno.h>
#include <ftw.h>
#include <math.h>
#include <sys/stat.h>
#include <unistd.h>

void test_fail(const char *format, ...)
{
    char text[1600];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    print_error("%s\n", text);
    fail();
    abort(); /* fail() does not return; the compiler cannot know */
}

void test_contains(const char *text, const char *words, const char *file, int line)
{
    if (strstr(text, words)) return;
    test_fail("%s:%d: '%s' expected in: %s", file, line, words, text);
}

void test_expect(moet_status expected, moet_status actual, const char *words, const char *call, const char *file,
                 int line)
{
    if (actual != expected)
        test_fail("%s:%d: %s\n  %s expected, %s returned: %s", file, line, call, moet_status_name(expected),
                  moet_status_name(actual), moet_last_error());
    if (expected == MOET_OK) return;
    const char *message = moet_last_error();
    if (!message[0]) test_fail("%s:%d: %s: no message", file, line, call);
    if (strpbrk(message, "\n\r")) test_fail("%s:%d: %s: the message is not one line: %s", file, line, call, message);
    if (words) test_contains(message, words, file, line);
}

uint64_t test_random(uint64_t *state)
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

int64_t test_between(uint64_t *state, int64_t low, int64_t high)
{
    return low + (int64_t)(test_random(state) % (uint64_t)(high - low + 1));
}

float test_normal(uint64_t *state)
{
    uint64_t bits = test_random(state);
    double sum =
        (double)(bits & 0xffff) + (double)(bits >> 16 & 0xffff) + (double)(bits >> 32 & 0xffff) + (double)(bits >> 48);
    return (float)((sum / 65535 - 2) * sqrt(3.0));
}

void *test_allocate(size_t size_bytes)
{
    void *memory = calloc(1, size_bytes ? size_bytes : 1);
    if (!memory) test_fail("out of memory: %zu bytes", size_bytes);
    return memory;
}

__attribute__((noreturn)) static void misused(const char *name, const char *what, const char *value)
{
    fprintf(stderr, "%s: %s%s\n", name, what, value);
    exit(2);
}

static int64_t parse_number(const char *name, const char *value)
{
    char *end;
    errno = 0;
    long long number = strtoll(value, &end, 10);
    if (end == value || *end || errno || number < 1) misused(name, "a number from 1 on expected, not ", value);
    return number;
}

void test_options_parse(int argc, char **argv, const test_option *options, int32_t count)
{
    for (int32_t i = 0; i < count; i++) {
        const char *value = options[i].variable ? getenv(options[i].variable) : NULL;
        if (value) *options[i].number = parse_number(options[i].variable, value);
    }
    for (int at = 1; at < argc; at++) {
        const char *name = argv[at];
        int32_t i = 0;
        while (i < count && strcmp(options[i].name, name) != 0) i++;
        if (i == count) misused(name, "no such option", "");
        if (options[i].flag) {
            *options[i].flag = true;
            continue;
        }
        if (++at == argc) misused(name, "its value is missing", "");
        if (options[i].text)
            *options[i].text = argv[at];
        else
            *options[i].number = parse_number(name, argv[at]);
    }
}

void test_folder_make(char path[256])
{
    const char *base = getenv("TMPDIR");
    snprintf(path, 256, "%s/moet-test-XXXXXX", base && *base ? base : "/tmp");
    if (!mkdtemp(path)) test_fail("mkdtemp %s failed", path);
}

static int remove_one(const char *path, const struct stat *info, int type, struct FTW *walk)
{
    (void)info, (void)type, (void)walk;
    return remove(path);
}

void test_folder_remove(const char *path) { nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS); }

void test_file_write(const char *path, const void *bytes, size_t size_bytes)
{
    FILE *file = fopen(path, "wb");
    if (!file || fwrite(bytes, 1, size_bytes, file) != size_bytes || fclose(file) != 0)
        test_fail("%s: not written", path);
}

char *test_file_read(const char *path, size_t *size_bytes)
{
    FILE *file = fopen(path, "rb");
    if (!file) test_fail("%s: not there", path);
    fseek(file, 0, SEEK_END);
    size_t size = (size_t)ftell(file);
    rewind(file);
    char *bytes = malloc(size + 1);
    if (!bytes || fread(bytes, 1, size, file) != size) test_fail("%s: not read", path);
    fclose(file);
    bytes[size] = '\0';
    if (size_bytes) *size_bytes = size;
    return bytes;
}

int test_file_count(const char *folder)
{
    DIR *dir = opendir(folder);
    int n = 0;
    if (!dir) test_fail("%s: not there", folder);
    for (struct dirent *entry; (entry = readdir(dir));) n += entry->d_name[0] != '.';
    closedir(dir);
    return n;
}

void test_random_problem(uint64_t *state, moet_problem *problem)
{
    moet_op op = (moet_op)test_between(state, 0, MOET_OP_COUNT - 1);
    /* Small and large numbers alike: the magnitude is drawn first. */
    int64_t hidden = 8 * test_between(state, 1, 1 << test_between(state, 0, 17));
    int64_t inter = op == MOET_OP_UP ? 4 * test_between(state, 1, 1 << test_between(state, 0, 18))
                                     : 8 * test_between(state, 1, 1 << test_between(state, 0, 17));
    moet_problem_init(problem, op, (int32_t)test_between(state, 1, MOET_MAX_EXPERTS), (int32_t)hidden, (int32_t)inter);
    problem->x_dtype = (moet_dtype)test_between(state, 0, MOET_DTYPE_COUNT - 1);
    problem->w_dtype = (moet_dtype)test_between(state, 0, MOET_DTYPE_COUNT - 1);
    problem->out_dtype = (moet_dtype)test_between(state, 0, MOET_DTYPE_COUNT - 1);
    problem->scales = (moet_scales)test_between(state, 0, MOET_SCALES_COUNT - 1);
    problem->layout = (moet_layout)test_between(state, 0, MOET_LAYOUT_COUNT - 1);
    problem->bias = test_between(state, 0, 1);
    problem->numerics = (moet_numerics)test_between(state, 0, MOET_NUMERICS_COUNT - 1);
    if (op != MOET_OP_FFN) return;
    problem->activation = (moet_activation)test_between(state, 1, MOET_ACTIVATION_COUNT - 1);
    problem->prob = (moet_prob)test_between(state, 0, MOET_PROB_COUNT - 1);
    problem->down_bias = test_between(state, 0, 1);
    if (problem->prob == MOET_PROB_COMBINE) problem->combine = (moet_combine)test_between(state, 0, 1);
    if (problem->activation != MOET_ACTIVATION_SWIGLU_CLAMP) return;
    /* Any magnitude and any number of digits. */
    problem->clamp = ldexp((double)(1 + (test_random(state) >> 12)), (int)test_between(state, -170, 60));
    if (test_between(state, 0, 1)) problem->clamp = (double)test_between(state, 1, 1000) / 100;
}

/* subject: one config on one problem as the tests run it, on any device: guarded buffers, a poisoned workspace, outputs
 * that are checked for what must not be written. */
#ifndef MOET_TEST_SUBJECT_H
#define MOET_TEST_SUBJECT_H

#include "test.h"

#include "../src/family.h"

/* Device memory with guard bytes on both sides, all of them poison: NaN, where a kernel reads them as input. */
enum { TEST_GUARD_BYTES = 4096, TEST_POISON = 0xff };
typedef struct test_buffer {
    uint8_t *memory; /* with the guards */
    size_t size_bytes;
} test_buffer;

/* content NULL: poison. */
void test_buffer_create(moet_device *device, test_buffer *buffer, const void *content, size_t size_bytes);
void test_buffer_destroy(moet_device *device, test_buffer *buffer);
void *test_buffer_inside(const test_buffer *buffer);

/* An output and room for its copy on the host. */
typedef struct test_output {
    test_buffer buffer;
    uint8_t *raw; /* with the guards */
} test_output;

void test_output_create(moet_device *device, test_output *output, size_t size_bytes);
void test_output_destroy(moet_device *device, test_output *output);

/* Whether two BF16 numbers are the same: bit for bit, but that any NaN stands for any other than poison, which nobody
 * wrote over. */
bool test_same_number(uint16_t got, uint16_t want);

/* Kinds of BF16 numbers; +0 is a usual one. */
#define TEST_CLASS_TABLE(X)                                                                                            \
    X(NAN, "NaN") X(INFINITE, "infinities") X(NEGATIVE_ZERO, "-0") X(DENORMAL, "denormals") X(USUAL, "usual numbers")
typedef enum test_class {
#define MOET_X(name, text) TEST_##name,
    TEST_CLASS_TABLE(MOET_X)
#undef MOET_X
        TEST_CLASS_COUNT
} test_class;
/* Adds the numbers of each class; `least` of each must be there: a comparison of nothing but NaN tells little. */
void test_classes_count(const uint16_t *bits, int64_t count, int64_t counts[TEST_CLASS_COUNT]);
void test_classes_check(const int64_t counts[TEST_CLASS_COUNT], int64_t least);

/* What was compiled last: of configs that differ in run-time values alone only the first one is compiled, or read
 * from the cache on disk. Starts as zero. */
typedef struct test_kernel {
    int32_t count;
    moet_source sources[MOET_MAX_CUBINS];
    moet_cubin cubins[MOET_MAX_CUBINS];
} test_kernel;
void test_kernel_release(test_kernel *kernel);

typedef struct test_subject {
    /* set before test_subject_open */
    moet_device *device;
    const moet_config *config;
    const moet_problem *problem;
    const char *label; /* the problem's, in messages */
    int64_t max_rows;
    bool on_device;  /* where the counts are */
    int32_t max_sms; /* 0: all */
    test_kernel *kernel;
    /* set by it */
    char config_text[MOET_CONFIG_SIZE + 32]; /* with the limit of SMs */
    void *state, *workspace, *stream;
} test_subject;

/* A limit of SMs for the nth config: with 2 or 4 in turn a CTA gets several tiles even of a small problem, and clusters
 * of two are one or several. */
int32_t test_few_sms(int64_t nth);

/* false: prepare refused it, for a reason that only a library knows, in why[MOET_REASON_SIZE]; nothing is open then.
 * Any other failure, and a refusal without a reason, fails the test. */
bool test_subject_open(test_subject *s, char *why);
void test_subject_close(test_subject *s);

/* Launches into out's poison and waits. x, w and bias (NULL: none) are device memory, counts are where on_device says
 * and sum to rows. The result comes back into bits[rows * N]; every other byte of out must still be poison. */
void test_subject_launch(const test_subject *s, const void *x, const void *w, const void *bias, const int32_t *counts,
                         int64_t rows, const test_output *out, uint16_t *bits);

#endif

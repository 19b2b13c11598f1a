/* test: what the tests share. Included instead of cmocka.h. */
#ifndef MOET_TEST_H
#define MOET_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "../src/device.h"

/* Fails with the library's last error unless the call returns OK. */
#define TEST_OK(call) test_expect(MOET_OK, (call), NULL, #call, __FILE__, __LINE__)
/* The call must fail with `status`, and its message be one line that holds `words` (NULL: any). */
#define TEST_FAILS(status, words, call) test_expect((status), (call), (words), #call, __FILE__, __LINE__)
void test_expect(moet_status expected, moet_status actual, const char *words, const char *call, const char *file,
                 int line);

#define TEST_CONTAINS(text, words) test_contains((text), (words), __FILE__, __LINE__)
void test_contains(const char *text, const char *words, const char *file, int line);

/* Fails with a formatted message that is not about one call. */
__attribute__((format(printf, 1, 2), noreturn)) void test_fail(const char *format, ...);

/* SplitMix64; the bits and a number in low..high. */
uint64_t test_random(uint64_t *state);
int64_t test_between(uint64_t *state, int64_t low, int64_t high);
/* Like a normal deviate, within 3.5. */
float test_normal(uint64_t *state);

/* calloc, which fails the test where there is no memory. */
void *test_allocate(size_t size_bytes);

/* A fresh folder under $TMPDIR, removed with its content by test_folder_remove. */
void test_folder_make(char path[256]);
void test_folder_remove(const char *path);
void test_file_write(const char *path, const void *bytes, size_t size_bytes);
/* malloc'd, with a NUL behind it. */
char *test_file_read(const char *path, size_t *size_bytes);
int test_file_count(const char *folder);

/* An option of a test program: a flag, or one that takes a text or a number from 1 on. */
typedef struct test_option {
    const char *name; /* with its dashes */
    bool *flag;
    const char **text;
    int64_t *number;
    const char *variable; /* NULL, or of the environment: has the number where the option is not given */
} test_option;

/* Ends the program with 2 where an argument is not one of the options, lacks its value or is no such number: a slip
 * must not turn a short run into a long one. */
void test_options_parse(int argc, char **argv, const test_option *options, int32_t count);

/* A valid problem within the limits. */
void test_random_problem(uint64_t *state, moet_problem *problem);

#endif

/* configs: which configurations of a family a test runs: all legal ones, or a pairwise set of them. */
#ifndef MOET_TEST_CONFIGS_H
#define MOET_TEST_CONFIGS_H

#include "test.h"

#include "../src/family.h"

typedef struct test_choice {
    moet_config config;
    int32_t problem; /* index of the problem that it is for */
} test_choice;

typedef struct test_configs {
    test_choice *choices; /* by problem, then in the order of moet_config_next */
    int32_t count;
    int64_t legal, refused; /* of all configs of all problems */
} test_configs;

/* A config is legal for a problem where the family's `applicable` says so; a refusal without a reason of one line fails
 * the test.
 *
 * pairs: a set of legal choices, small but not the smallest, in which every pair of values of two factors occurs that
 * any legal choice has. The factors are the family's parameters, the problem's layout, its bias, and its shape (op,
 * experts, hidden, inter). Most faults of a configuration need two values to meet (Kuhn, Wallace and Gallo, IEEE Trans.
 * Softw. Eng. 30(6), 2004), and the set grows with the two longest factors, not with the product of all. */
void test_configs_create(const moet_family *family, const moet_problem *problems, int32_t problem_count,
                         const moet_device_info *device, bool pairs, test_configs *configs);
void test_configs_destroy(test_configs *configs);

/* For GEMMs with a fused activation: four problems of `experts` experts, either layout with and without bias, and what
 * is fused in the nth choice of their pairwise set: every activation with and without router weight, in turn. */
enum { TEST_FUSED_PROBLEMS = 4, TEST_FUSED_EXPERTS = 8 };
void test_fused_problems(int32_t hidden, int32_t inter, moet_problem problems[TEST_FUSED_PROBLEMS]);
enum { TEST_FUSED_KINDS = 6 };
/* false where the activation of the nth choice does not go with its config. Every second half dozen gathers, where it
 * can. */
bool test_fused_choice(const test_choice *choice, const moet_problem *problems, const moet_device_info *device,
                       int64_t nth, moet_problem *fused, moet_config *config);

/* Whether two configs compile to the same kernel: they differ in run-time values at most. */
bool test_same_source(const moet_source *a, const moet_source *b);

#endif

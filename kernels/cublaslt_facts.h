/* cublaslt_facts: what is known of cuBLASLt's versions, as a table. Pure: it needs neither CUDA nor the library.
 *
 * A version is a number as cublasLtGetVersion gives it: 10000 major + 100 minor + patch, 130400 for 13.4.0. */
#ifndef MOET_CUBLASLT_FACTS_H
#define MOET_CUBLASLT_FACTS_H

#include "../src/family.h"

/* What follows from a fact. The first two refuse the grouped product, the others are kept to by the callers. */
typedef enum moet_lt_rule {
    MOET_LT_NO_GROUPED,          /* the library has none for this device */
    MOET_LT_WRONG_GROUPED,       /* it has one, and its results are wrong */
    MOET_LT_OWN_WORKSPACE,       /* grouped products that are in flight together share no workspace */
    MOET_LT_DEVICE_POINTERS,     /* alpha and beta of grouped products are in device memory */
    MOET_LT_NO_QUERY_IN_CAPTURE, /* no heuristic is asked while a stream is captured */
    MOET_LT_NO_SPLIT_K_66,       /* algorithm 66 is not split along K */
    MOET_LT_MANY_SMS,            /* a product is limited to MOET_LT_LEAST_SMS SMs or more, or not at all */
} moet_lt_rule;
enum { MOET_LT_LEAST_SMS = 16 }; /* of the largest cluster */

typedef struct moet_lt_fact {
    moet_lt_rule rule;
    int32_t first_version, last_version; /* both included; INT32_MAX: no version is known to be free of it */
    int32_t first_cc, last_cc;           /* major compute capabilities, both included */
    const char *why;                     /* one line, after "cuBLASLt 13.4.0: " */
} moet_lt_fact;

/* The fact that puts this rule on a version and a device's major compute capability; NULL: none does. */
const moet_lt_fact *moet_lt_fact_find(moet_lt_rule rule, int64_t version, int32_t cc_major);

/* Whether a product of this version may be limited to so many SMs (0: it is not limited); else one line in
 * why[MOET_REASON_SIZE]. */
bool moet_lt_takes_sms(int64_t version, int32_t cc_major, int32_t sm_limit, char *why);

/* Whether the grouped product of this version serves this device; else one line in why[MOET_REASON_SIZE]. */
bool moet_lt_grouped_serves(int64_t version, int32_t cc_major, char *why);

#endif

#include "cublaslt_facts.h"

#include <stdio.h>

#define ANY_VERSION 0, INT32_MAX
#define ANY_DEVICE 0, INT32_MAX

/* From the release notes of CUDA 12.6 to 13.4 (cuBLAS, new features and known issues; the numbers in brackets are
 * theirs). A line whose end they do not tell has none: what it asks for costs little. */
static const moet_lt_fact facts[] = {
    {MOET_LT_NO_GROUPED, ANY_VERSION, 0, 8, "it has a grouped product for compute capability 9.0 and later only"},
    {MOET_LT_NO_GROUPED, 0, 130399, 9, 9, "the grouped product for compute capability 9.0 came with 13.4.0"},
    {MOET_LT_NO_GROUPED, 0, 130199, ANY_DEVICE, "the grouped product came with 13.2.0"},
    {MOET_LT_NO_GROUPED, ANY_VERSION, 12, INT32_MAX, "it has no grouped product for compute capability 12.0 and later"},
    {MOET_LT_WRONG_GROUPED, 130200, 130299, ANY_DEVICE, "its grouped product is wrong where a group is empty"},
    /* [6456362]: a kernel reads tensor maps that an earlier call left at the same address; hangs or launch failures. */
    {MOET_LT_OWN_WORKSPACE, 130400, INT32_MAX, ANY_DEVICE, "grouped products that share a workspace may hang"},
    /* [6681084] */
    {MOET_LT_DEVICE_POINTERS, 130400, INT32_MAX, ANY_DEVICE,
     "grouped products with alpha and beta in host memory may be wrong above two waves"},
    /* [6288786], for a non-default blocking stream */
    {MOET_LT_NO_QUERY_IN_CAPTURE, 130501, 130699, ANY_DEVICE, "a heuristic query breaks a capture"},
    /* [6580689], where the splits do not divide K */
    {MOET_LT_NO_SPLIT_K_66, 120603, INT32_MAX, 9, 11, "algorithm 66 may be wrong when split along K"},
    /* Not in the notes: seen with 13.10 on an H100 at limits of 2 and 4 SMs, not with 13.1. What is offered then has
     * clusters that do not fit. */
    {MOET_LT_MANY_SMS, 130200, INT32_MAX, 9, INT32_MAX, "a product that is limited to fewer than 16 SMs may fail to launch"},
};

const moet_lt_fact *moet_lt_fact_find(moet_lt_rule rule, int64_t version, int32_t cc_major)
{
    for (int32_t i = 0; i < MOET_COUNT_OF(facts); i++) {
        const moet_lt_fact *fact = &facts[i];
        if (fact->rule == rule && version >= fact->first_version && version <= fact->last_version &&
            cc_major >= fact->first_cc && cc_major <= fact->last_cc)
            return fact;
    }
    return NULL;
}

static bool refuse(const moet_lt_fact *fact, int64_t version, char *why)
{
    return moet_refuse(why, "cuBLASLt %lld.%lld.%lld: %s", (long long)(version / 10000),
                       (long long)(version / 100 % 100), (long long)(version % 100), fact->why);
}

bool moet_lt_takes_sms(int64_t version, int32_t cc_major, int32_t sm_limit, char *why)
{
    const moet_lt_fact *fact = moet_lt_fact_find(MOET_LT_MANY_SMS, version, cc_major);
    if (fact && sm_limit > 0 && sm_limit < MOET_LT_LEAST_SMS) return refuse(fact, version, why);
    return true;
}

bool moet_lt_grouped_serves(int64_t version, int32_t cc_major, char *why)
{
    static const moet_lt_rule refusing[] = {MOET_LT_NO_GROUPED, MOET_LT_WRONG_GROUPED};
    for (int32_t i = 0; i < MOET_COUNT_OF(refusing); i++) {
        const moet_lt_fact *fact = moet_lt_fact_find(refusing[i], version, cc_major);
        if (fact) return refuse(fact, version, why);
    }
    return true;
}

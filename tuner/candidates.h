/* candidates: what a sweep tries on one workload.
 *
 * Of the chosen families of the device's backend, every configuration whose parameters that are not searched first
 * (moet_search) have their first value (or the default's), and every family's default whether chosen or not; later,
 * around the best of these, configurations that differ in one parameter (moet_candidates_add_around). Of a path family
 * (op FFN), whose space is the product of its GEMMs', each such configuration of the GEMM family as the up GEMM with
 * each way of activating, and as the down GEMM, beside the default's other half, and, where the family chains them, as
 * both in one launch; later the best up halves with the best down halves, and each as both
 * (moet_candidates_add_crossed). Where GEMMs of ops up and down were measured on the same rows (moet_known_gemms), only
 * the fastest of these are halves, with each way of gathering and combining. A configuration that takes counts from the
 * device is tried so (the slower way round serves both kinds); one that cannot, with host counts. A family's default
 * that can do both is tried both ways, as a plan may use it either way. */
#ifndef MOET_CANDIDATES_H
#define MOET_CANDIDATES_H

#include "../bench/bench.h"
#include "effort.h"
#include "parse.h"
#include "workload.h"

typedef struct moet_candidate {
    moet_config config;
    char text[MOET_CONFIG_SIZE];
    bool device_counts;
    bool family_default; /* of its family, for this problem and number of rows */
    bool is_chosen;      /* its family is: others are there for their default only */
    bool applicable;
    char reason[MOET_REASON_SIZE]; /* why not */
    char validator[MOET_VALIDATOR_SIZE];
    bool is_seed;       /* won on a workload like this one */
    double estimate_ns; /* by its family's cost model; 0: none */
    /* what is known of it; filled by the race */
    bool stored;                 /* its trial is in the store */
    bool is_suspect;             /* it was wrong at another workload of the problem: it wins nothing */
    moet_trial_status status;    /* if stored or tried */
    int32_t subject;             /* in the bench; -1: none */
    int64_t median_ns, noise_ns; /* 0: not timed */
    int64_t launch_ns;           /* of the launch that was verified; 0: none */
} moet_candidate;

typedef struct moet_candidates {
    int32_t count, capacity;
    moet_candidate *items; /* family defaults first, then in the order of families.def and of their parameters, then
                              those around others */
} moet_candidates;

/* Family names to take; that of a GEMM family takes the path family made of it too (count 0: all of the backend):
 * INVALID names one that is unknown, UNSUPPORTED where none is of the backend. */
moet_status moet_candidates_check(const moet_device_info *device, const moet_text_list *families);

/* Configurations of GEMM families that were measured as op `up` and as op `down` on the same rows, the fastest first,
 * at most MOET_KNOWN_GEMMS of a family. */
#define MOET_KNOWN_GEMMS 5
typedef struct moet_known_gemms {
    int32_t up_count, down_count;
    moet_config ups[64], downs[64];
} moet_known_gemms;
/* Adds one to ups[] or downs[], which is the next fastest; past MOET_KNOWN_GEMMS of its family it is left out. */
void moet_known_gemms_add(const moet_config *config, int32_t *count, moet_config configs[64]);

/* families as above. known: for op FFN; NULL: nothing. A family whose library is missing gives one inapplicable
 * candidate, its default. */
moet_status moet_candidates_list(const moet_problem *problem, int64_t rows, const moet_device_info *device,
                                 const moet_text_list *families, const moet_known_gemms *known, moet_candidates *list);
void moet_candidates_release(moet_candidates *list);

/* Adds what the list lacks of the configurations that differ from items[center] in one parameter of MOET_SEARCH_AROUND.
 * Pointers into items[] end. */
moet_status moet_candidates_add_around(moet_candidates *list, const moet_problem *problem,
                                       const moet_device_info *device, int32_t center);
/* Adds what the list lacks of the fastest up halves of each path family crossed with its fastest down halves, and of
 * each of these as both GEMMs in one launch, where the family chains them. */
#define MOET_CANDIDATES_HALVES 3 /* of each */
int32_t moet_candidates_most_crossed(const moet_family *family);
moet_status moet_candidates_add_crossed(moet_candidates *list, const moet_problem *problem,
                                        const moet_device_info *device);
/* Visits what only a vendor library can enumerate, of base's family; UNSUPPORTED where it cannot. */
typedef moet_status (*moet_candidates_lister)(void *context, const moet_config *base, moet_config_visit visit,
                                              void *visit_context);
/* Adds what the list lacks of the configurations that only a vendor library can enumerate, of each chosen family whose
 * default applies and that has any. A library that cannot enumerate adds nothing; on another error nothing is added. */
moet_status moet_candidates_add_listed(moet_candidates *list, const moet_problem *problem,
                                       const moet_device_info *device, moet_candidates_lister lister, void *context);
/* How many families that asks. */
int32_t moet_candidates_listers(const moet_candidates *list);
/* How many halves of a path family are listed where its GEMMs are known, at most. */
int32_t moet_candidates_most_known(const moet_family *family);
/* How many configurations there are around one, at most. */
int32_t moet_candidates_around(const moet_config *center);

/* Adds a configuration that won on another routing of this problem, or marks it where it is listed already. One of a
 * family that was not chosen is left out. */
moet_status moet_candidates_add_seed(moet_candidates *list, const moet_problem *problem, const moet_device_info *device,
                                     const moet_config *config);

/* Estimates candidates on a routing and puts them into the order in which they are to be tried: defaults, seeds, those
 * without an estimate, the others from the best estimate on, inapplicable ones. Only what the effort tries
 * stays: defaults and seeds; the best estimates (of a path whose family chains its GEMMs half of them chained, as far
 * as there are so many; of the others one half each that differ in the up half and in the down half alone); of families
 * without one nothing more (quick), or what differs from the default in one parameter (normal). Below exhaustive,
 * inapplicable ones go too. */
moet_status moet_candidates_select(moet_candidates *list, const moet_problem *problem, const int32_t *counts,
                                   int64_t tokens, const moet_device_info *device, const moet_device_rates *rates,
                                   moet_effort effort);
/* How many of the listed candidates the least effort would try: those before that many are tried tell too little. */
int32_t moet_candidates_least(const moet_candidates *list);

/* Hash of the set, of the values that are tried around it, and of how it is measured: a finished workload is finished
 * for this text. Made before seeds and selection. A path's candidates are left out: they follow from its family and
 * from what is known of its GEMMs, and more of that is no reason to begin again. rule: MOET_RACE_RULE. listed: how many
 * configurations that only a vendor library can enumerate are tried of a family, at most; which they are follows from
 * the problem, the counts and the library's version, and is not asked again to know that all is done. */
void moet_candidates_hash(const moet_candidates *list, int32_t rule, int32_t final_rounds, int32_t listed,
                          char text[MOET_SHA256_TEXT_SIZE]);

#endif

/* family: the plug-in point for kernels. A family is one descriptor `moet_family_<name>` in kernels/<name>.c and one
 * line in families.def; the search space, the text form of a configuration and the table's syntax follow from
 * params[]. */
#ifndef MOET_FAMILY_H
#define MOET_FAMILY_H

#include "device.h"
#include "module.h"
#include "moet.h"
#include "tiling.h"

#define MOET_MAX_PARAMS 28
#define MOET_MAX_CUBINS 4 /* of one config */
#define MOET_MAX_GEMMS 2
#define MOET_VALIDATOR_SIZE 64
#define MOET_MAX_ALGORITHMS 48
#define MOET_ALGORITHM_BYTES 64
#define MOET_ALGORITHM_TEXT_SIZE 192

/* How a sweep walks a parameter. */
typedef enum moet_search {
    MOET_SEARCH_FIRST,          /* all values, in every combination */
    MOET_SEARCH_AROUND,         /* the first value, which should be the best guess, then the others around the best */
    MOET_SEARCH_AROUND_DEFAULT, /* the family default's value, which knows the rows, then the others around the best */
    MOET_SEARCH_NEVER,          /* the first value: others are for callers who ask */
    /* As NEVER, but that list() knows configs with others. Too many to be walked: moet_config_next leaves it at the
     * first, and so do texts, which name it only where it has another. */
    MOET_SEARCH_LISTED,
} moet_search;

/* A tunable: its values are the search space and their texts the syntax. */
typedef struct moet_param {
    const char *name;
    const char *const *values; /* ended by NULL */
    moet_search search;
} moet_param;

typedef struct moet_family moet_family;

/* One choice in a family's search space. value[i] indexes params[i].values; indices live in memory only, texts carry
 * names and values. */
typedef struct moet_config {
    const moet_family *family;
    int16_t value[MOET_MAX_PARAMS];
    /* Set by a path family, in no text. For its up GEMM: row r of the product is row source[r] of x. For its down GEMM:
     * rows with a target go there. For its up GEMM with an activation: the down GEMM follows in the same launch, with
     * this config, and scatters is its. */
    bool gathers, scatters, chains;
} moet_config;

struct moet_tile_shape;

typedef moet_status (*moet_config_visit)(void *context, const moet_config *config);

/* What a configuration can do. */
typedef struct moet_traits {
    bool host_counts;     /* launch takes counts from host memory */
    bool device_counts;   /* launch takes counts from device memory, and a captured graph replays with others */
    bool capturable;      /* launch may be captured into a CUDA graph (host counts are frozen in it) */
    bool batch_invariant; /* a row's bits depend on that row and the weights alone */
} moet_traits;

/* A vendor library's algorithm inside a prepared config: its bytes mean something to the version of the library that
 * made them (the validator), its text to people. */
typedef struct moet_algorithm {
    int64_t rows; /* of an expert, up to which the config uses it; 0: however many */
    char text[MOET_ALGORITHM_TEXT_SIZE];
    uint8_t bytes[MOET_ALGORITHM_BYTES];
} moet_algorithm;

/* What a device does in a second, and what a launch costs, as kernels see it: the coefficients of families' estimates
 * (tuner/cost_fit.h fits them). Rates are of all SMs together. */
#define MOET_RATE_TABLE(X)                                                                                             \
    X(TENSOR, "tensor_flops_per_s")                                                                                    \
    X(L2, "l2_bytes_per_s")                                                                                            \
    X(HBM, "hbm_bytes_per_s")                                                                                          \
    X(STORE, "store_bytes_per_s") /* of a tile's epilogue */                                                           \
    X(LAUNCH, "launches_per_s")
typedef enum moet_rate {
#define MOET_X(name, text) MOET_RATE_##name,
    MOET_RATE_TABLE(MOET_X)
#undef MOET_X
        MOET_RATE_COUNT
} moet_rate;
typedef struct moet_device_rates {
    double rate[MOET_RATE_COUNT]; /* each > 0 */
} moet_device_rates;

typedef struct moet_prepare_args {
    moet_device *device;
    const moet_problem *problem;
    const moet_config *config;
    int64_t max_rows;
    int64_t max_tokens;  /* FFN */
    int32_t choices;     /* FFN */
    int32_t max_sms;     /* 0: all */
    bool device_counts;  /* launches will pass device counts */
    int32_t cubin_count; /* compiled kernels from a table, as cubins() gave them; 0: compile */
    const moet_cubin *cubins[MOET_MAX_CUBINS];
    int32_t algorithm_count; /* from a table, as algorithms() gave them to the same validator; 0: ask the library */
    const moet_algorithm *algorithms;
} moet_prepare_args;

/* The path without its combine (docs/ep.md). All in device memory. */
typedef struct moet_ffn_rows {
    void *rows;          /* [max_rows, H] BF16: of each expert, as moet_permute orders them */
    int32_t *places;     /* [max_tokens, min(k, E)] as in moet_permuted */
    const int32_t *none; /* [max_rows] of -1, for configurations that scatter */
} moet_ffn_rows;

typedef struct moet_family_launch_args {
    const void *x, *w, *bias; /* as moet_launch_args */
    void *out;
    const moet_ffn_args *ffn;      /* FFN: these instead of x, w, bias and out */
    const moet_ffn_rows *ffn_rows; /* FFN: the experts' rows go here and are not combined; NULL: into ffn->out */
    const int32_t *source;         /* [rows] row of x of each row, device memory: UP with a config that gathers */
    int64_t x_stride;              /* then: elements from one row of x to the next */
    const int32_t *target; /* [rows] row of `scattered` of each row, -1: of out: DOWN with a config that scatters */
    void *scattered;
    int64_t scattered_stride; /* then: elements from one row of scattered to the next */
    const float *prob;        /* of each row, on the device: UP with an activation and prob ADVANCE */
    const int32_t *counts;    /* FFN: NULL with device counts, which follow from the ids */
    bool counts_on_device;
    int64_t rows;    /* M; with device counts, max_rows */
    void *workspace; /* workspace_bytes() of device memory, 256-byte aligned; NULL where that is 0 */
    void *stream;
    const struct moet_family_launch_args *next; /* UP with a config that chains: the down GEMM's; its x is this out */
} moet_family_launch_args;

struct moet_family {
    const char *name;
    int32_t version;     /* raised when a change of the kernels makes old measurements stale */
    const char *backend; /* "host" or "cuda" */
    const char *summary; /* one line for people */
    const moet_param *params;
    int32_t param_count;
    /* Serves op UP with an activation too, inside the expert path: out is then [M, I], made of w's gates and ups. */
    bool fuses_activation;
    bool fuses_gather;  /* has configs that gather */
    bool fuses_scatter; /* has configs that scatter */
    bool fuses_next;    /* has configs that chain */
    /* NULL: serves the GEMMs, ops UP and DOWN. Else a path family: serves op FFN with this one as its GEMMs; a config
     * is what is fused, then the up GEMM's values and the down GEMM's (kernels/ffn_path.h). */
    const moet_family *gemm;

    moet_traits (*traits)(const moet_problem *problem, const moet_config *config);
    /* Pure. false with one line in why[MOET_REASON_SIZE] (moet_refuse). */
    bool (*applicable)(const moet_problem *problem, const moet_config *config, const moet_device_info *device,
                       char *why);
    /* What runs where nothing was tuned. rows_hint: expected rows. config->family is this family. */
    void (*default_config)(const moet_problem *problem, int64_t rows_hint, const moet_device_info *device,
                           moet_config *config);
    /* How an applicable config cuts the product into tiles (kernels/tile_cost.h). false: not to be known, as of a
     * function NULL. */
    bool (*tile_shape)(const moet_problem *problem, const moet_config *config, const moet_device_info *device,
                       struct moet_tile_shape *shape);
    size_t (*workspace_bytes)(const moet_prepare_args *args);
    /* About how long an applicable config takes on a routing, in ns: what ranks configs before any is timed. Pure.
     * NULL: the family cannot tell (a vendor library chooses). tokens as moet_routing has them (FFN). */
    double (*estimate_ns)(const moet_problem *problem, const int32_t *counts, int64_t tokens, const moet_config *config,
                          const moet_device_info *device, const moet_device_rates *rates);
    /* The tiles of the GEMM, or of a path's up and down GEMM, into tilings[MOET_MAX_GEMMS]; how many GEMMs. Pure. NULL:
     * a vendor library chooses. */
    int32_t (*tile)(const moet_problem *problem, const moet_config *config, const moet_device_info *device,
                    const moet_device_rates *rates, moet_tiling *tilings);
    /* Compiles or queries, allocates: everything that launch must not do. UNSUPPORTED (with a reason in the last
     * error) where only asking a vendor library could tell that a config does not apply. */
    moet_status (*prepare)(const moet_prepare_args *args, void **state);
    /* Enqueues. No allocation, no synchronisation. Launches of one state follow each other. */
    moet_status (*launch)(void *state, const moet_family_launch_args *args);
    void (*release)(void *state); /* NULL is fine */
    /* Visits configs that only a vendor library can enumerate, for counts as in launch_args, on the host: at most
     * `limit`, the most promising first. args->config: what they share. NULL function: none. */
    moet_status (*list)(const moet_prepare_args *args, const int32_t *counts, int32_t limit, moet_config_visit visit,
                        void *context);
    /* Path families only: the pieces of launch, as moet_permute and the others have them. `workspace` as in launch. */
    moet_status (*permute)(void *state, const moet_ffn_args *args, const moet_permuted *permuted, void *workspace);
    moet_status (*activate)(void *state, const void *up, const moet_permuted *permuted, void *out, void *stream);
    moet_status (*unpermute)(void *state, const moet_ffn_args *args, const void *rows, const moet_permuted *permuted);
    /* The compiled kernels behind a state, owned by it, into list[MOET_MAX_CUBINS]; their number. NULL function: none.
     */
    int32_t (*cubins)(const void *state, const moet_cubin **list);
    /* The library's algorithms behind a state, by rows, into list[MOET_MAX_ALGORITHMS]; their number. NULL function:
     * none. */
    int32_t (*algorithms)(const void *state, moet_algorithm *list);
    /* What NVRTC would compile for this config on this compute capability, the cubin of this index; NULL function where
     * the family compiles nothing. false: past the last one, or not for this architecture. */
    bool (*source)(const moet_problem *problem, const moet_config *config, int32_t cc_major, int32_t cc_minor,
                   int32_t index, moet_source *source);
    /* Version of the library whose change makes measurements stale, "cublasLt 130100", into text[MOET_VALIDATOR_SIZE].
     * Loads the library if need be. NULL where the family stands on none: use moet_family_validator. */
    moet_status (*validator)(char *text);
};

/* All families of this build, ended by NULL, in the order of families.def: the first applicable one is the default. */
extern const moet_family *const moet_families[];
const moet_family *moet_family_find(const char *name);

/* Whether problems of this op are what the family is for. */
bool moet_family_serves(const moet_family *family, moet_op op);

/* The up GEMM's and the down GEMM's problem (op UP, DOWN) of an FFN problem. */
moet_problem moet_problem_gemm(const moet_problem *path, moet_op op);

/* "layout=nk,prob=advance": the fields of a valid problem that are otherwise in another of its op, in text
 * [MOET_KEY_SIZE]; their number. */
int32_t moet_problem_differences(const moet_problem *problem, const moet_problem *other, char *text);

/* The family's validator into text[MOET_VALIDATOR_SIZE]; "" where it stands on no library. */
moet_status moet_family_validator(const moet_family *family, char *text);

/* Index of a parameter by name; asserts that it exists. Text and number of its value in a config. */
int32_t moet_family_param(const moet_family *family, const char *name);
const char *moet_config_text(const moet_config *config, int32_t param);
int32_t moet_config_number(const moet_config *config, int32_t param);
/* Sets a parameter by its value's text; asserts that both exist. */
void moet_config_set(moet_config *config, const char *name, const char *value);

/* "family:key=value,..." into text[MOET_CONFIG_SIZE]. parse refuses an unknown family, key or value, and a missing
 * key, by name. A MOET_SEARCH_LISTED parameter at its first value is left out. */
void moet_config_format(const moet_config *config, char *text);
moet_status moet_config_parse(const char *text, moet_config *config);
bool moet_config_equal(const moet_config *a, const moet_config *b);

/* Walks a family's parameter space but for parameters that are listed: start with moet_config_first; false at the end.
 */
void moet_config_first(const moet_family *family, moet_config *config);
bool moet_config_next(moet_config *config);

/* The common refusals: wrong backend, dtype, op, misaligned N or K. Families call it first. */
bool moet_family_accepts(const moet_family *family, const moet_problem *problem, const moet_device_info *device,
                         char *why);

/* The default of a device: default_config of the first family in families.def for which it is applicable and whose
 * traits serve device_counts (if asked). UNSUPPORTED with every family's reason otherwise. */
moet_status moet_default_config(const moet_problem *problem, int64_t rows_hint, bool device_counts,
                                const moet_device_info *device, moet_config *config);

#endif

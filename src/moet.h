/* moet.h: the public interface of libmoet, the runtime library of moe-tune.
 *
 * libmoet runs the grouped GEMMs of a mixture-of-experts layer with the kernel configuration that `moe-tune`
 * measured as fastest for the problem at hand. In the order of use:
 *
 *   moet_open(table_dir, device, &handle)          a tuned table (or none) on one device
 *   moet_problem_init(&problem, op, E, H, I)       what is computed
 *   moet_plan_create(handle, &problem, &options, &plan)   loads kernels, allocates workspace: once
 *   moet_launch(plan, &args)                       enqueues one grouped GEMM: no allocation, no synchronisation
 *   moet_plan_destroy(plan); moet_close(handle);
 *
 * With op FFN a plan is the whole expert path of one rank, from received rows to combined output, and is launched by
 * moet_ffn.
 *
 * Every fallible function returns a moet_status; results come back through out-pointers and are untouched on an
 * error. moet_last_error() says what went wrong in one line. NULL for a pointer that is not said to be optional is
 * INVALID, "<function>: <argument> is NULL", in all of them, and not looked for in the others. The caller owns what
 * _open and _create return; _close and _destroy accept NULL. Plans are destroyed before their handle is closed, and
 * after the work that they enqueued, and the graphs that captured it, are done. Different handles may be used from
 * different threads at the same time; one handle with its plans, questions to them included, belongs to one thread at a
 * time, but for what says otherwise below. On a CUDA device the device's context, which moet_open leaves current, must
 * be current on the thread that creates, launches or destroys a plan, or closes the handle.
 *
 * The host backend's threads do not come along through fork(): where a process has made a plan on the host, its forked
 * children get UNSUPPORTED for plans and launches there. Fork before the first plan, or start children anew (spawn).
 *
 * Opening a table writes nothing. The environment variable MOET_TABLE overrides the folder passed to moet_open:
 * a folder, or "off" for no table. */
#ifndef MOET_H
#define MOET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define MOET_VERSION_MAJOR 0
#define MOET_VERSION_MINOR 1
#define MOET_VERSION_PATCH 0
#define MOET_VERSION_TEXT "0.1.0"

#define MOET_API __attribute__((visibility("default")))

/* MOET_VERSION_TEXT of the library that runs, which may be another than the header's. */
MOET_API const char *moet_version(void);

/* Limits. Rows are expert rows: one token counts once for each local expert it is sent to. */
#define MOET_MAX_EXPERTS 1024
#define MOET_MAX_ROWS (1 << 20)
#define MOET_MAX_DIM (1 << 20)
#define MOET_MAX_CHOICES 16  /* top-k */
#define MOET_KEY_SIZE 256    /* bytes that hold any canonical problem key, with its NUL */
#define MOET_CONFIG_SIZE 384 /* bytes that hold any configuration's text, with its NUL */
#define MOET_REASON_SIZE 256 /* bytes of a reason or refusal, with its NUL */

/* ---- status ------------------------------------------------------------------------------------------------ */

/* name, what it means to the caller */
#define MOET_STATUS_TABLE(X)                                                                                           \
    X(OK, "ok")                                                                                                        \
    X(INVALID, "an argument or input is invalid")                                                                      \
    X(UNSUPPORTED, "the device, problem or configuration is not supported")                                            \
    X(NOT_FOUND, "a file, device, library or entry was not found")                                                     \
    X(MALFORMED, "a file is malformed")                                                                                \
    X(MISMATCH, "a version, device or checksum differs from what was expected")                                        \
    X(IO, "reading or writing a file failed")                                                                          \
    X(NO_MEMORY, "out of host memory")                                                                                 \
    X(NO_DEVICE_MEMORY, "out of device memory")                                                                        \
    X(DEVICE, "the device or a library on it reported an error")                                                       \
    X(COMPILE, "a kernel did not compile")                                                                             \
    X(WRONG, "a result differs from the reference")                                                                    \
    X(TIMEOUT, "time ran out")                                                                                         \
    X(BUSY, "a file is locked by another process")                                                                     \
    X(LOST, "another rank ended")

typedef enum moet_status {
#define MOET_X(name, text) MOET_##name,
    MOET_STATUS_TABLE(MOET_X)
#undef MOET_X
        MOET_STATUS_COUNT
} moet_status;

/* "OK", "INVALID", ...; never NULL. */
MOET_API const char *moet_status_name(moet_status status);

/* One line on the calling thread's latest error: what, where, the next step. Valid until the thread's next failing
 * moet call; "" before the first. */
MOET_API const char *moet_last_error(void);

/* ---- problem ----------------------------------------------------------------------------------------------- */

/* E experts, H hidden size, I intermediate size. With M = rows over all experts, row-major throughout:
 *   UP    x [M, H], w [E, 2I, H] (nk) or [E, H, 2I] (kn), out [M, 2I]   N = 2I, K = H; gate half first
 *   DOWN  x [M, I], w [E, H, I]  (nk) or [E, I, H]  (kn), out [M, H]    N = H,  K = I
 * Any other grouped GEMM [M, K] x [E, N, K] is DOWN with H = N and I = K.
 *   FFN   the expert path: permute, UP, activation, DOWN, combine (moet_ffn) */
#define MOET_OP_TABLE(X) X(UP, "up") X(DOWN, "down") X(FFN, "ffn")
#define MOET_DTYPE_TABLE(X) X(BF16, "bf16")
#define MOET_SCALES_TABLE(X) X(NONE, "none")
#define MOET_LAYOUT_TABLE(X) X(NK, "nk") X(KN, "kn")
/* FFN, of gate g and up u, both FP32 out of one BF16 row of the up GEMM; s(x) = 1 / (1 + expf(-x)):
 *   SWIGLU        g / (1 + expf(-g)) * u
 *   SWIGLU_CLAMP  the same of min(g, c) and min(max(u, -c), c)
 *   GPT_OSS       g * s(1.702 g) * (u + 1) of g and u clamped like that at 7
 * left to right in FP32 without contraction, times the router weight with prob ADVANCE, then rounded once to BF16. NaN
 * stays NaN through the clamps. */
#define MOET_ACTIVATION_TABLE(X)                                                                                       \
    X(NONE, "none") X(SWIGLU, "swiglu") X(SWIGLU_CLAMP, "swiglu_clamp") X(GPT_OSS, "gpt_oss")
/* FFN, where a row is multiplied by its router weight: nowhere; in the activation (a bias of the down GEMM is then not
 * weighted); in the sum over a token's experts. */
#define MOET_PROB_TABLE(X) X(NONE, "none") X(ADVANCE, "advance") X(COMBINE, "combine")
/* FFN. PADDLE: with prob COMBINE, a token with exactly one local expert gets that expert's row unweighted, as Paddle's
 * moe_unpermute does; INVALID with any other prob. */
#define MOET_COMBINE_TABLE(X) X(EXACT, "exact") X(PADDLE, "paddle")
/* TRAIN: one fp32 accumulation, no split-K, one rounding to BF16. A row's bits are then independent of the batch it is
 * in with the kernels of this library (wgmma_gemm, mma_gemm, host_tile); vendor libraries promise no such thing across
 * their kernels. FAST: split-K and other reorderings are allowed. */
#define MOET_NUMERICS_TABLE(X) X(TRAIN, "train") X(FAST, "fast")

#define MOET_ENUM_VALUE(prefix, name) MOET_##prefix##_##name
#define MOET_X_OP(name, text) MOET_OP_##name,
#define MOET_X_DTYPE(name, text) MOET_DTYPE_##name,
#define MOET_X_SCALES(name, text) MOET_SCALES_##name,
#define MOET_X_LAYOUT(name, text) MOET_LAYOUT_##name,
#define MOET_X_ACTIVATION(name, text) MOET_ACTIVATION_##name,
#define MOET_X_PROB(name, text) MOET_PROB_##name,
#define MOET_X_COMBINE(name, text) MOET_COMBINE_##name,
#define MOET_X_NUMERICS(name, text) MOET_NUMERICS_##name,
typedef enum moet_op { MOET_OP_TABLE(MOET_X_OP) MOET_OP_COUNT } moet_op;
typedef enum moet_dtype { MOET_DTYPE_TABLE(MOET_X_DTYPE) MOET_DTYPE_COUNT } moet_dtype;
typedef enum moet_scales { MOET_SCALES_TABLE(MOET_X_SCALES) MOET_SCALES_COUNT } moet_scales;
typedef enum moet_layout { MOET_LAYOUT_TABLE(MOET_X_LAYOUT) MOET_LAYOUT_COUNT } moet_layout;
typedef enum moet_activation { MOET_ACTIVATION_TABLE(MOET_X_ACTIVATION) MOET_ACTIVATION_COUNT } moet_activation;
typedef enum moet_prob { MOET_PROB_TABLE(MOET_X_PROB) MOET_PROB_COUNT } moet_prob;
typedef enum moet_combine { MOET_COMBINE_TABLE(MOET_X_COMBINE) MOET_COMBINE_COUNT } moet_combine;
typedef enum moet_numerics { MOET_NUMERICS_TABLE(MOET_X_NUMERICS) MOET_NUMERICS_COUNT } moet_numerics;
#undef MOET_X_OP
#undef MOET_X_DTYPE
#undef MOET_X_SCALES
#undef MOET_X_LAYOUT
#undef MOET_X_ACTIVATION
#undef MOET_X_PROB
#undef MOET_X_COMBINE
#undef MOET_X_NUMERICS
#undef MOET_ENUM_VALUE

typedef struct moet_problem {
    moet_op op;
    int32_t experts; /* E, 1 to MOET_MAX_EXPERTS */
    int32_t hidden;  /* H */
    int32_t inter;   /* I; N and K of the op must be multiples of 8 */
    moet_dtype x_dtype, w_dtype, out_dtype;
    moet_scales scales;
    moet_layout layout;
    moet_activation activation;
    bool bias; /* BF16 [E, N], added in fp32 before the one rounding; FFN: of the up GEMM */
    moet_prob prob;
    moet_numerics numerics;
    /* FFN only: else false, 0 and EXACT */
    bool down_bias; /* BF16 [E, H] */
    moet_combine combine;
    double clamp; /* c > 0 of SWIGLU_CLAMP, else 0 */
} moet_problem;

/* Fills *problem with BF16, layout nk, no bias, train numerics; FFN: swiglu, prob combine (where `moe-tune
 * sweep` takes prob advance unless told: see moet_refusal), combine exact. */
MOET_API void moet_problem_init(moet_problem *problem, moet_op op, int32_t experts, int32_t hidden, int32_t inter);

/* INVALID, with the field and its bound, if the problem cannot be served. */
MOET_API moet_status moet_problem_validate(const moet_problem *problem);

/* Columns of the output, and length of the dot products. FFN: H, and H. */
MOET_API int32_t moet_problem_n(const moet_problem *problem);
MOET_API int32_t moet_problem_k(const moet_problem *problem);

/* Canonical key text, "op=up,experts=8,hidden=7168,...": the identity of a problem in stores and tables. `text`
 * holds at least MOET_KEY_SIZE bytes; the problem is a valid one. parse(format(p)) == p; MALFORMED for a text that is
 * not canonical, UNSUPPORTED for a name that this version does not know, INVALID for a problem that
 * moet_problem_validate refuses. */
MOET_API void moet_problem_format(const moet_problem *problem, char *text);
MOET_API moet_status moet_problem_parse(const char *text, moet_problem *problem);

/* ---- routing ----------------------------------------------------------------------------------------------- */

/* What the rows per expert look like. */
typedef struct moet_routing {
    int32_t experts;      /* E */
    int32_t active;       /* experts with at least one row */
    int64_t rows;         /* M, the sum of counts */
    int32_t max;          /* rows of the busiest expert */
    double max_over_mean; /* max / (rows / experts); 1 where rows is 0 */
    int64_t tokens;       /* R; moet_routing_summarize takes rows for it */
} moet_routing;

/* counts[experts], each >= 0, summing to at most MOET_MAX_ROWS; else INVALID. */
MOET_API moet_status moet_routing_summarize(const int32_t *counts, int32_t experts, moet_routing *routing);

/* Gini coefficient of the counts: 0 all equal, 1 - 1/E one expert has every row; 0 without rows. experts at most
 * MOET_MAX_EXPERTS. */
MOET_API double moet_routing_gini(const int32_t *counts, int32_t experts);

/* Floating-point operations of the useful rows, and bytes of each operand moved once (active experts' weights); FFN:
 * weights, R rows of x and R rows of out. */
MOET_API double moet_problem_flops(const moet_problem *problem, const moet_routing *routing);
MOET_API double moet_problem_bytes(const moet_problem *problem, const moet_routing *routing);

/* ---- handle: one table on one device ----------------------------------------------------------------------- */

typedef struct moet_handle moet_handle;

/* Opens a table folder (NULL: none; every answer is then a family default) for a device: "auto" or NULL (a CUDA device
 * if there is one, else the host), "host", "cuda:N", or "cuda": the device of the calling thread's current context,
 * else cuda:0. Entries made for another device or for other library, kernel or driver versions are refused one by
 * one (moet_refusal lists them) and the rest serves. Where the thread's current context is of another device, or there
 * is none, the device's primary context is made current, and held until moet_close.
 * INVALID, UNSUPPORTED, NOT_FOUND or DEVICE if there is no such device; NOT_FOUND, MALFORMED, MISMATCH or IO if the
 * folder as a whole cannot be used; NO_MEMORY. */
MOET_API moet_status moet_open(const char *table_dir, const char *device, moet_handle **handle);
MOET_API void moet_close(moet_handle *handle);

/* Entries that serve, and the refused ones: moet_refusal(handle, i) for 0 <= i < moet_refusal_count is one line,
 * "<problem> rows=512 max=99 any: cublasLt 130100 expected, cublasLt 130200 found", and "" for any other i. A plan that
 * cannot prepare an entry adds "<config>: <reason>", and one whose problem the table has with other fields alone
 * "<op and sizes>: the table has prob=advance; the plan asks prob=combine". Owned by the handle. */
MOET_API int32_t moet_entry_count(const moet_handle *handle);
MOET_API int32_t moet_refusal_count(const moet_handle *handle);
MOET_API const char *moet_refusal(const moet_handle *handle, int32_t index);

/* The device's key text, as tables and stores hold it. Owned by the handle. */
MOET_API const char *moet_device_key(const moet_handle *handle);

/* ---- plan -------------------------------------------------------------------------------------------------- */

typedef struct moet_plan moet_plan;

typedef struct moet_plan_options {
    int64_t max_rows;   /* bound on the rows of any launch; 1 to MOET_MAX_ROWS; FFN: 0 for max_tokens min(choices, E),
                           INVALID where that is more */
    int64_t max_tokens; /* FFN: bound on the tokens of any launch; 1 to MOET_MAX_ROWS */
    int32_t choices;    /* FFN: k, 1 to MOET_MAX_CHOICES */
    int32_t max_sms;    /* SMs (host: threads) to use at most; 0: all. FFN: the passes over rows have no more
                           blocks than so many SMs hold, but may be spread thinly over others */
    bool device_counts; /* launches read counts from device memory: replayable in a CUDA graph */
    int64_t expected_rows; /* with device_counts: what to choose for; without: what to choose the default for, which
                              answers where the table does not. 0: max_rows; of an FFN it is worth saying, as max_rows
                              may be what it takes for every choice to be local */
    double expected_max_over_mean; /* with device_counts: what to choose for; 0: 1 (balanced). Both until
                                      moet_plan_expect says otherwise */
} moet_plan_options;

/* Prepares every configuration that the table may answer with for this problem, and the default: loads kernels, or
 * compiles those that no table has, queries vendor libraries, allocates workspace. The problem and the options are
 * copied; the handle must outlive the plan. A tuned configuration that cannot be prepared becomes a refusal, and the
 * rest serves. INVALID for the problem or an option; UNSUPPORTED where no configuration serves the problem here, with
 * each family's reason; NO_MEMORY; NO_DEVICE_MEMORY; DEVICE. */
MOET_API moet_status moet_plan_create(moet_handle *handle, const moet_problem *problem,
                                      const moet_plan_options *options, moet_plan **plan);
MOET_API void moet_plan_destroy(moet_plan *plan);

/* Bytes of device memory that the plan holds for its launches' intermediate results. Kernels are not counted, nor what
 * cublaslt_grouped allocates for itself (docs/cublaslt.md). */
MOET_API size_t moet_plan_workspace_bytes(const moet_plan *plan);

typedef struct moet_launch_args {
    const void *x;         /* [rows, K] BF16, experts' rows in ascending order of expert, no padding */
    const void *w;         /* [E, N, K] (nk) or [E, K, N] (kn) BF16 */
    const void *bias;      /* [E, N] BF16, or NULL where the problem has none */
    void *out;             /* [rows, N] BF16; must not overlap the inputs */
    const int32_t *counts; /* [E] rows per expert: host memory, or device memory with options.device_counts */
    void *stream;          /* CUstream / cudaStream_t; NULL: the default stream; ignored on the host */
} moet_launch_args;

/* Enqueues one grouped GEMM. Launches of one plan, graphs that captured one included, share its workspace and its
 * kernels' counters (these also where the workspace is 0 bytes): they must follow each other, on one stream or by
 * events; a plan for each stream where two shall run at once. All pointers 16-byte aligned. With host counts the counts
 * are read before the call returns. INVALID for counts that are negative or sum to more than max_rows. With device
 * counts, x must be max_rows rows of readable memory (rows past the experts' may be read and are not used), rows past
 * max_rows are neither read nor written, and a negative count is 0. No allocation, no synchronisation. With device
 * counts a launch may be captured into a CUDA graph, whose replays read the counts anew; without, the counts are frozen
 * in it, and what the table has chosen (cublas_grouped) may not be capturable. INVALID before anything is enqueued;
 * else what the driver or library reports, DEVICE mostly. On the host backend the work is done on return. */
MOET_API moet_status moet_launch(moet_plan *plan, const moet_launch_args *args);

/* ---- the expert path --------------------------------------------------------------------------------------- */

/* What one rank does between the two all-to-alls of expert-parallel prefill; docs/ffn.md. R tokens, k = options.choices
 * of each. Strides are in elements from one token to the next, multiples of 8 and at least H for x and out, at least k
 * for ids and weights; 0: the rows are dense. */
typedef struct moet_ffn_args {
    const void *x; /* [R, H] BF16 */
    int64_t x_stride;
    const void *ids; /* [R, k] int32 or int64: local expert, -1 where the choice is not local */
    bool ids_int64;
    int64_t ids_stride;
    const float *weights; /* [R, k] router weights; may be NULL with prob NONE */
    int64_t weights_stride;
    const void *up;        /* [E, 2I, H] (nk) or [E, H, 2I] (kn) BF16, gate half first */
    const void *up_bias;   /* [E, 2I] BF16, or NULL where the problem has no bias */
    const void *down;      /* [E, H, I] (nk) or [E, I, H] (kn) BF16 */
    const void *down_bias; /* [E, H] BF16, or NULL where the problem has no down_bias */
    void *out;             /* [R, H] BF16; must not overlap the inputs */
    int64_t out_stride;
    int64_t tokens;               /* R, at most options.max_tokens */
    const int32_t *device_tokens; /* device memory: R is read there at run time, cut to 0 to max_tokens, and tokens is
                                     not looked at; or NULL */
    const int32_t *counts;        /* host memory, without options.device_counts: [E] tokens that chose each expert */
    void *stream;                 /* as in moet_launch_args */
} moet_ffn_args;

/* Enqueues the path: no allocation, no synchronisation, capturable with options.device_counts. Ids are not checked, on
 * the host backend neither: one below -1 or of E and more is taken as -1, and so is an expert that the token has named
 * before. With device_counts rows past max_rows are left out, and a token that loses some is combined of those that are
 * left; none gives +0. Without, counts are needed and must be those of ids, a repeated choice counted once; INVALID
 * where they cannot be, or sum to more than max_rows. Matrices 16-byte aligned; ids and weights aligned to their
 * elements. Launches of one plan, moet_permute included, must follow each other, and errors are, as moet_launch says.
 */
MOET_API moet_status moet_ffn(moet_plan *plan, const moet_ffn_args *args);

/* The pieces, for callers with their own order; each enqueues. rowmap [R, E] int32: row of the token in that expert,
 * counted over all experts, -1 none (experts ascending, tokens ascending inside an expert, no padding). Between them
 * moet_launch of UP and DOWN plans. moet_permute needs counts, and source where x is to be gathered, and leaves out
 * what else is NULL; moet_activate needs counts, and prob with prob ADVANCE; moet_unpermute what it reads. All may be
 * captured, whatever the plan's options. INVALID for a pointer, stride or number of tokens; else as moet_launch. */
typedef struct moet_permuted {
    int32_t *counts; /* [E] rows of each expert */
    int32_t *places; /* [R, min(k, E)] the token's rows, ascending, then -1 */
    int32_t *rowmap; /* [R, E]; NULL: not written, and places are read */
    int32_t *source; /* [max_rows] token of each row */
    float *prob;     /* [max_rows] router weight of each row, 1 without weights */
    void *x;         /* [max_rows, H] BF16; NULL: not gathered */
} moet_permuted;
/* Reads x, ids, weights and their strides, tokens or device_tokens, stream of args. All in device memory. */
MOET_API moet_status moet_permute(moet_plan *plan, const moet_ffn_args *args, const moet_permuted *permuted);
/* up [rows, 2I] BF16 to out [rows, I] BF16, rows = the sum of permuted->counts; reads prob with prob ADVANCE. */
MOET_API moet_status moet_activate(moet_plan *plan, const void *up, const moet_permuted *permuted, void *out,
                                   void *stream);
/* rows [M, H] BF16 to args->out; reads places, or rowmap where they are NULL, and prob with prob COMBINE; out,
 * out_stride, tokens or device_tokens and stream of args. A token's rows are summed in FP32 from +0 over ascending
 * experts, weighted ones by fmaf(row, prob, sum), and rounded once. A single unweighted row is copied, no row gives
 * +0. */
MOET_API moet_status moet_unpermute(moet_plan *plan, const moet_ffn_args *args, const void *rows,
                                    const moet_permuted *permuted);

/* ---- answers ------------------------------------------------------------------------------------------------- */

/* Where an answer came from. */
#define MOET_HIT_TABLE(X) X(EXACT, "exact") X(NEAREST, "nearest") X(DEFAULT, "default")
typedef enum moet_hit {
#define MOET_X(name, text) MOET_HIT_##name,
    MOET_HIT_TABLE(MOET_X)
#undef MOET_X
        MOET_HIT_COUNT
} moet_hit;
MOET_API const char *moet_hit_name(moet_hit hit);

/* The bounds on NEAREST: distance = hypot(ln(rows / rows'), ln(max_over_mean / max_over_mean')) to the tuned point, of
 * which the first is at most ln 4 and the second ln 16: four times the rows, sixteen times the skew; further away the
 * family default answers. What runs is the configuration that, by its times at the nearest points and by its tiles on
 * these counts, takes least (docs/design.md, Lookup): not always the nearest point's own. */
#define MOET_NEAREST_LIMIT 1.3862943611198906
#define MOET_NEAREST_SKEW_LIMIT 2.7725887222397811

typedef struct moet_choice {
    moet_hit hit;
    char config[MOET_CONFIG_SIZE];
    double distance;      /* to the nearest tuned point; 0 if exact or default */
    int64_t tuned_rows;   /* of that point; 0 if default */
    double tuned_time_us; /* of this config there, as measured by the sweep; 0 if default, or not measured there */
} moet_choice;

/* What moet_launch, or moet_ffn, would run for these host counts (device_counts plans: counts is ignored, may be NULL).
 * INVALID for counts as there. */
MOET_API moet_status moet_plan_query(const moet_plan *plan, const int32_t *counts, moet_choice *choice);

/* ---- counts on the device ------------------------------------------------------------------------------------ */

/* A plan with device_counts chooses once, for options.expected_rows and expected_max_over_mean. These two let the
 * counts say what to expect instead: summarize enqueues, behind whatever made the counts, one small kernel that writes
 * what they look like; later, when the stream has got there, the caller gives the summary to expect, and launches from
 * then on run what the table has for it. No launch waits for counts, so it runs what an earlier step's counts asked
 * for.
 *
 * In a CUDA graph: a launch is captured with the configuration chosen at that moment, and every replay runs that one,
 * whatever the counts then are, up to max_rows rows, and whatever expect was told since. It is right for them all; to
 * follow the counts, capture again after expect changed the choice (moet_plan_query with counts NULL tells). summarize
 * may be captured: each replay writes the summary of that replay's counts. */

/* counts [E] in device memory, as launches get them (moet_permute writes them for op ffn); negative ones count as 0.
 * routing: memory that the device writes, 8-byte aligned: pinned host memory, or device memory that the caller copies
 * from. On `stream` like a launch; written when the stream has got there, on the host backend on return. The first call
 * of a handle compiles the kernel, or takes it from the cache, loads it and allocates: not while a stream is being
 * captured. Later ones do neither, and do not synchronise. INVALID for a plan without device_counts, and for NULL;
 * NOT_FOUND where neither NVRTC nor the cache has the kernel. */
MOET_API moet_status moet_plan_summarize(moet_plan *plan, const int32_t *counts, moet_routing *routing, void *stream);

/* Launches after this run what suits routing->rows and ->max_over_mean (host memory; moet_routing_summarize's, or a
 * summary that has arrived); rows past the plan's max_rows are taken as max_rows, and 0 rows change nothing. A lookup,
 * no allocation: everything that may be chosen was prepared by moet_plan_create. From the thread that launches. INVALID
 * for a plan without device_counts, for a routing of another number of experts, or none at all (rows below 0,
 * max_over_mean not within 1 to MOET_MAX_EXPERTS); the choice is then as it was. */
MOET_API moet_status moet_plan_expect(moet_plan *plan, const moet_routing *routing);

/* How launches were answered since the handle, or the plan, was made: EXACT, NEAREST, DEFAULT; refused: the default
 * answered because what the table has for the problem, near the routing, is among the refused entries (moet_refusal).
 * Many of these, or of the default, call for a new sweep. A launch of 0 rows is not counted, as nothing is looked up;
 * with device_counts a launch counts as what the plan expects, and replays of a graph that captured it are not seen. */
typedef struct moet_stats {
    int64_t exact, nearest, fallback, refused;
} moet_stats;

/* Of all plans of a handle, destroyed ones too; of one plan. Any thread may call these while another launches. */
MOET_API void moet_stats_read(const moet_handle *handle, moet_stats *stats);
MOET_API void moet_plan_stats_read(const moet_plan *plan, moet_stats *stats);

/* Writes into text[size] the shell command that measures and verifies what moet_launch would run for these counts
 * (device_counts plans: what it runs for any, on these; host memory here too): "moe-tune bench ...", with the handle's
 * table, or, where a plan for these counts alone would choose something else, with the configuration by name. It uses
 * all SMs, whatever max_sms. INVALID for counts as in moet_launch, and where it does not fit. FFN: with one local
 * expert a token. */
MOET_API moet_status moet_plan_replay_command(const moet_plan *plan, const int32_t *counts, char *text, size_t size);

/* ---- recording ----------------------------------------------------------------------------------------------- */

/* Production meets routings that the table does not know: its answer is then DEFAULT, or NEAREST from afar. A handle
 * can keep those, so that a later sweep measures them (docs/workloads.md). Off until started; off, a launch pays one
 * load and one branch. */
#define MOET_MAX_RECORDS 65536
/* NEAREST is afar beyond this distance: ln 1.25, a quarter more rows or skew than the tuned point's. */
#define MOET_RECORD_DISTANCE 0.22314355131420976

typedef struct moet_record_summary {
    int32_t entries;  /* different (op, E, H, I, tokens, counts) */
    int64_t launches; /* of the entries */
    int64_t dropped;  /* launches with something new when every entry was taken */
} moet_record_summary;

/* Keeps in memory the host counts of every moet_launch and moet_ffn of the handle's plans, from now on, that the table
 * has no near answer to: each different one once with its number of launches, at most `capacity` (1 to
 * MOET_MAX_RECORDS) different ones. All memory is allocated here: 4 KiB of address space an entry, of which what the
 * counts need gets used. Launches with device counts, and of 0 rows, are not recorded. Started again, it begins empty.
 * INVALID, NO_MEMORY. The handle owns it; moet_close frees it.
 *
 * A mutex guards what is recorded, so that these four may be called from another thread than the handle's. A launch
 * never waits for it: one during a save or summary is not recorded. */
MOET_API moet_status moet_record_start(moet_handle *handle, int32_t capacity);
/* Writes what is recorded so far as a workload file, one JSON object a line with "weight" the number of launches, by a
 * temporary file and a rename; goes on recording. `moe-tune sweep --workloads` and `moe-tune workloads import` read it;
 * a sweep must be told what else the problem is, as --ops ffn and --prob (docs/workloads.md). An empty file where
 * nothing was met. INVALID where nothing was started, IO, NO_MEMORY. */
MOET_API moet_status moet_record_save(moet_handle *handle, const char *path);
/* INVALID where nothing was started. */
MOET_API moet_status moet_record_summarize(moet_handle *handle, moet_record_summary *summary);
/* Forgets what is recorded and frees it. NULL, and a handle that records nothing, are fine. */
MOET_API void moet_record_stop(moet_handle *handle);

#ifdef __cplusplus
}
#endif
#endif

/* bench: how a launch is verified and timed. docs/design.md, "Measuring", is the protocol.
 *
 *   moet_bench_create(device, ...)          ceilings: dense and copy/read subjects of this device
 *   moet_bench_set_workload(problem, counts, tokens)  2 to 4 buffer sets, random inputs, the reference result
 *   moet_bench_add_config / _add_launcher   prepare, verify on poisoned outputs, capture: a subject
 *   moet_bench_round(...)                   one round: every active subject and the ceilings once, in a random order
 *   moet_bench_trial(...)                   a subject's samples, median, noise, efficiency
 */
#ifndef MOET_BENCH_H
#define MOET_BENCH_H

#include "../src/family.h"

/* What became of one candidate on one workload. */
#define MOET_TRIAL_STATUS_TABLE(X)                                                                                     \
    X(OK, "ok") X(INAPPLICABLE, "inapplicable") X(WRONG, "wrong") X(FAILED, "failed") X(TIMEOUT, "timeout")
typedef enum moet_trial_status {
#define MOET_X(name, text) MOET_TRIAL_##name,
    MOET_TRIAL_STATUS_TABLE(MOET_X)
#undef MOET_X
        MOET_TRIAL_STATUS_COUNT
} moet_trial_status;
const char *moet_trial_status_name(moet_trial_status status);
moet_status moet_trial_status_parse(const char *text, moet_trial_status *status);

typedef struct moet_sample {
    int32_t round;
    int64_t time_ns;                               /* of one call */
    int64_t dense_ns, dense2_ns, copy_ns, read_ns; /* the ceilings' subjects in the same round (moet_ceilings) */
    moet_clocks clocks;
} moet_sample;

/* Rates from the ceilings' medians. dense: best of NN and NT at 8192^3 (host: 1024^3); hbm: best of copy (bytes read
 * plus bytes written) and read. */
typedef struct moet_ceilings {
    double dense_flops_per_s;
    double copy_bytes_per_s;
    double read_bytes_per_s;
} moet_ceilings;

typedef struct moet_trial {
    moet_trial_status status;
    char config[MOET_CONFIG_SIZE];
    char reason[MOET_REASON_SIZE]; /* "" if ok */
    bool device_counts;            /* measured with counts in device memory */
    bool eager;                    /* timed without a graph */
    int32_t sample_count;
    moet_sample *samples;
    int64_t median_ns; /* of samples */
    int64_t noise_ns;  /* half the interquartile range of samples: the median's +- */
    double efficiency; /* floor / time, medians of the same rounds */
    double floor_ns;
    double error; /* largest |out - ref| / bound over all elements; <= 1 passes */
    /* "<hash><hash>-<seed>s" of the output bits on the bench's seeded inputs, and on the same with rows of several scales
     * (moet_ops_spread): for one problem and counts, equal texts mean equal bits. "<hash>-<seed>" of earlier versions:
     * the first only. "" unknown. */
    char bit_class[MOET_SHA256_TEXT_SIZE];
    int32_t cubin_count; /* 0 where the family compiles nothing */
    moet_cubin cubins[MOET_MAX_CUBINS];
    int32_t algorithm_count; /* 0 where no vendor library has any */
    moet_algorithm *algorithms;
} moet_trial;
/* Frees what a trial owns and zeroes it. */
void moet_trial_release(moet_trial *trial);
moet_status moet_trial_copy(const moet_trial *from, moet_trial *to);
/* Takes a sample; on an error the trial is unchanged. *capacity: what trial->samples has room for, 0 at first. */
moet_status moet_trial_push(moet_trial *trial, const moet_sample *sample, int32_t *capacity);
/* Of the latest 512 samples; 0 without samples. */
int64_t moet_trial_median_ns(const moet_trial *trial);
int64_t moet_trial_noise_ns(const moet_trial *trial);

/* What a call of the ceilings' subjects does on this device; zero where a bench has none. */
typedef struct moet_ceiling_work {
    double dense_flops, stream_bytes;
} moet_ceiling_work;
/* Fills in what follows from a trial's samples: median_ns, noise_ns and, with the problem's flops and bytes, floor_ns
 * and efficiency. */
void moet_trial_derive(moet_trial *trial, const moet_ceiling_work *work, double flops, double bytes);

/* What a bench is about to do. A kernel can spoil any of these but the first. */
#define MOET_STEP_TABLE(X)                                                                                             \
    X(BENCH, "setting up")                                                                                             \
    X(COMPILE, "compiling")                                                                                            \
    X(PREPARE, "preparing")                                                                                            \
    X(VERIFY, "verifying")                                                                                             \
    X(TIME, "timing")
typedef enum moet_step {
#define MOET_X(name, text) MOET_STEP_##name,
    MOET_STEP_TABLE(MOET_X)
#undef MOET_X
        MOET_STEP_COUNT
} moet_step;
const char *moet_step_name(moet_step step);

typedef struct moet_bench moet_bench;

/* With ceilings false, no ceiling subjects are made (efficiency is then 0): for verification. Inputs follow from the
 * seed alone. With ceilings, about a second of them is run to warm the clocks. */
moet_status moet_bench_create(moet_device *device, uint64_t seed, bool ceilings, moet_bench **bench);
void moet_bench_destroy(moet_bench *bench);

/* From now on told before every step: of a subject's, or (-1) of the bench's own. watch NULL: nobody. */
typedef void (*moet_bench_watch)(void *context, int32_t subject, moet_step step);
void moet_bench_set_watch(moet_bench *bench, moet_bench_watch watch, void *context);

/* Visits the configs that only a vendor library can enumerate (moet_family's list) for counts [E] in host memory: at most
 * `limit`, the most promising first; none where the family lists nothing. base: what they share, UNSUPPORTED where it
 * does not apply. Needs no workload and leaves the bench as it is; on an error of the library nothing is visited. */
moet_status moet_bench_list(moet_bench *bench, const moet_problem *problem, const int32_t *counts,
                            const moet_config *base, int32_t limit, moet_config_visit visit, void *context);

/* Sets the workload; drops the previous subjects. Weights are kept where only counts changed. NO_DEVICE_MEMORY says how
 * much was needed; the bench is then without a workload and another may be set. tokens, FFN: R, at least every count;
 * 0: as many as rows, with one local expert each. UNSUPPORTED for more than MOET_MAX_CHOICES local experts a token. */
moet_status moet_bench_set_workload(moet_bench *bench, const moet_problem *problem, const int32_t *counts,
                                    int64_t tokens);
/* The workload's useful FLOPs, and its bytes with each operand moved once. */
void moet_bench_work(const moet_bench *bench, double *flops, double *bytes);
/* FFN: the tokens and choices of the workload. */
void moet_bench_path_size(const moet_bench *bench, int64_t *tokens, int32_t *choices);

/* Adds a configuration: prepare, verify on poisoned outputs. It is captured, and the graph verified, in its first
 * round. Returns MOET_OK also where the candidate is inapplicable, wrong or failed: moet_bench_trial(subject) then says
 * so and rounds skip it. An error status is the bench's own (a lost device, no host memory); the candidate that lost
 * the device is then the last subject, and its trial says why. A launch finds the workspace with unspecified contents.
 */
moet_status moet_bench_add_config(moet_bench *bench, const moet_config *config, bool device_counts, int32_t *subject);

/* Adds anything that launches like moet_launch, e.g. a plan. `name` goes into trial.config. capturable as in
 * moet_traits. The context must outlive the bench's workload. */
typedef moet_status (*moet_bench_launcher)(void *context, const moet_launch_args *args);
moet_status moet_bench_add_launcher(moet_bench *bench, const char *name, moet_bench_launcher launcher, void *context,
                                    bool capturable, bool device_counts, int32_t *subject);
/* The same of op FFN, like moet_ffn. */
typedef moet_status (*moet_bench_path_launcher)(void *context, const moet_ffn_args *args);
moet_status moet_bench_add_path_launcher(moet_bench *bench, const char *name, moet_bench_path_launcher launcher,
                                         void *context, bool capturable, bool device_counts, int32_t *subject);

/* The time of the launch that was verified, cold and outside any graph: enough to tell a candidate that is far behind.
 * _launch_sample: as a sample, beside the ceilings' latest times. */
int64_t moet_bench_launch_ns(const moet_bench *bench, int32_t subject);
moet_sample moet_bench_launch_sample(const moet_bench *bench, int32_t subject);
/* Launches an active subject once more; the shorter time counts from now on: a kernel may be slow once. A subject that
 * fails retires; an error status is the bench's own. */
moet_status moet_bench_launch_again(moet_bench *bench, int32_t subject);

/* For a profiler: so many untimed launches over all buffer sets, then one more of the set that is next, alone between
 * the backend's set_profiling(true) and (false). Nothing of it goes into the trial. */
moet_status moet_bench_launch_profiled(moet_bench *bench, int32_t subject, int32_t warm_up);

/* While racing, a sample holds as few calls as 0.6 ms ask for, not whole cycles over the buffer sets. Not racing is the
 * state after _set_workload. */
void moet_bench_set_racing(moet_bench *bench, bool is_racing);

/* Whether rounds include a subject (all that are right do at first). A retired subject's graph and kernel are given
 * back and its trial stays; a subject that fails in a round retires by itself. */
void moet_bench_retire(moet_bench *bench, int32_t subject);
bool moet_bench_active(const moet_bench *bench, int32_t subject);

/* One interleaved round over active subjects and the ceilings. A round with a hardware slowdown is dropped for all
 * and repeated; TIMEOUT after 10 in a row. DEVICE: the device is lost, this process cannot go on with it. */
moet_status moet_bench_round(moet_bench *bench);
/* Keeps the device busy with an active subject's launches for a time, so that rounds after it find the clocks and the
 * heat of steady work. After its first round, which captures it. A subject that fails retires; an error status is the
 * bench's own. */
moet_status moet_bench_sustain(moet_bench *bench, int32_t subject, int64_t time_ns);
/* Forgets samples so far: before fresh rounds that are reported. */
void moet_bench_clear_samples(moet_bench *bench);

/* A copy of the subject's trial so far, to be released. */
moet_status moet_bench_trial(const moet_bench *bench, int32_t subject, moet_trial *trial);
/* The bench's own, without what is derived; until the next call that changes it. */
const moet_trial *moet_bench_view(const moet_bench *bench, int32_t subject);
int32_t moet_bench_subject_count(const moet_bench *bench);
/* Quick reads for racing: median so far, 0 without samples. */
int64_t moet_bench_median_ns(const moet_bench *bench, int32_t subject);
int64_t moet_bench_noise_ns(const moet_bench *bench, int32_t subject);

/* Ceilings by the medians of the latest 128 rounds; runs `rounds` rounds of only the ceilings first (0: none). */
moet_status moet_bench_ceilings(moet_bench *bench, int32_t rounds, moet_ceilings *ceilings);

moet_ceiling_work moet_bench_ceiling_work(const moet_bench *bench);

/* stats.c: of n values; 0 where n is 0. Quantile by the index rule sorted[n * i / 4] of peers.py. */
int64_t moet_stats_median(const int64_t *values, int32_t n);
int64_t moet_stats_iqr(const int64_t *values, int32_t n);
/* Whether more rounds are not worth while: noise[n] is the relative noise after each round so far, and the last is at
 * most `asked`, or has not fallen by 5 % in the last 4 rounds. */
bool moet_stats_is_settled(const double *noise, int32_t n, double asked);

/* Now, monotonic, in ns. */
int64_t moet_clock_ns(void);

#endif

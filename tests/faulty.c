/* faulty: families that misbehave, one way a config, to see that it costs nothing but themselves. They compute by
 * another family and do the harm beside it. $MOET_FAULTS, a list of names, lets only these faults apply.
 *
 * Where $MOET_FAULT_SLOW is set, every launch takes 20 ms: what has become slow since it was tuned. "growing": each
 * twice as long as the one before, from 6 ms to 768 ms: what is timed on a busy device.
 *
 * `told` waits for the file $MOET_FAULT_FILE to exist: it removes it and crashes.
 *
 * $MOET_FAULT_LIST is how many configs the family lists as only a vendor library can; "crash": it crashes at that. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "../src/family.h"
#include "../src/status.h"

#define FAULT_TABLE(X)                                                                                                 \
    X(NONE, "none")                                                                                                    \
    X(CRASH, "crash")                 /* in the first launch */                                                        \
    X(CRASH_LATE, "crash_late")       /* in a later one */                                                             \
    X(CRASH_PREPARE, "crash_prepare") /* before any launch */                                                          \
    X(TOLD, "told")                                                                                                    \
    X(ABORT, "abort")                                                                                                  \
    X(EXIT, "exit")           /* ends the process, as a library may */                                                 \
    X(HANG, "hang")           /* the first launch spins, and would end some time after any watchdog of the tests */    \
    X(HANG_LATE, "hang_late") /* a later one does */                                                                   \
    X(WRONG, "wrong")         /* one wrong value */                                                                    \
    X(OUTSIDE, "outside")     /* one byte behind the output */                                                         \
    X(SLOW_ONCE, "slow_once") /* the first launch only */                                                              \
    X(GREEDY, "greedy")       /* a workspace that nobody has */                                                        \
    X(STARVED, "starved")     /* no host memory left */                                                                \
    X(OFF_LARGE, "off_large") /* another last bit where x is far larger than usual: other bits, and no error */        \
    X(OFF_SMALL, "off_small") /* far smaller */                                                                        \
    X(OFF_CANCEL, "off_cancel") /* where the halves of a row of x are alike */                                         \
    X(ERROR, "error")         /* an error of the device that it survives */
enum {
#define X(name, text) FAULT_##name,
    FAULT_TABLE(X)
#undef X
};
static const char *const fault_values[] = {
#define X(name, text) text,
    FAULT_TABLE(X)
#undef X
        NULL};
static const char *const listed_values[] = {"0", "1", "2", "3", "4", "5", "6", "7", NULL};
static const moet_param params[] = {{"fault", fault_values, MOET_SEARCH_FIRST},
                                    {"listed", listed_values, MOET_SEARCH_LISTED}};

#define HANG_S 40
#define SLOW_NS 400000000L
#define SLOWER_NS 20000000L
#define GROWING_NS 6000000L /* a sample of more than 5 ms is one launch */
#define MOST_GROWN 7
#define GREEDY_BYTES ((size_t)1 << 46)

typedef struct faulty_state {
    moet_config config; /* of the family that computes */
    void *inner;
    int32_t fault;
    int64_t launches;
    size_t out_row_bytes;
    int64_t k; /* elements of a row of x */
#ifdef MOET_CUDA
    moet_cubin cubin;
    void *module, *kernel;
#endif
} faulty_state;

static bool is_wanted(const char *fault)
{
    const char *list = getenv("MOET_FAULTS"), *at = list;
    const size_t length = strlen(fault);
    while (at && (at = strstr(at, fault)) != NULL) {
        if ((at == list || at[-1] == ',') && (at[length] == '\0' || at[length] == ',')) return true;
        at += length;
    }
    return list == NULL;
}

static double now_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static void spin(void)
{
    const double end_s = now_s() + HANG_S;
    while (now_s() < end_s) continue;
}

/* ---- the family that computes ---- */

static moet_config inner_config(const moet_family *family, const moet_problem *problem, int64_t rows,
                                const moet_device_info *device)
{
    moet_config config = {.family = family};
    family->default_config(problem, rows, device, &config);
    return config;
}

static const moet_family *inner_of(const moet_family *family)
{
    return moet_family_find(strcmp(family->backend, "host") == 0 ? "host_tile" : "mma_gemm");
}

static moet_traits faulty_traits(const moet_problem *problem, const moet_config *config)
{
    (void)problem;
    return (moet_traits){.host_counts = true, .capturable = strcmp(config->family->backend, "host") != 0};
}

static bool faulty_applicable(const moet_problem *problem, const moet_config *config, const moet_device_info *device,
                              char *why)
{
    const moet_family *inner = inner_of(config->family);
    if (!moet_family_accepts(config->family, problem, device, why)) return false;
    if (!is_wanted(moet_config_text(config, 0))) return moet_refuse(why, "not among $MOET_FAULTS");
    const moet_config computes = inner_config(inner, problem, 1, device);
    return inner->applicable(problem, &computes, device, why);
}

static void faulty_default_config(const moet_problem *problem, int64_t rows_hint, const moet_device_info *device,
                                  moet_config *config)
{
    (void)problem;
    (void)rows_hint;
    (void)device;
    config->value[0] = FAULT_NONE;
}

static moet_status faulty_list(const moet_prepare_args *args, const int32_t *counts, int32_t limit,
                               moet_config_visit visit, void *context)
{
    const char *wanted = getenv("MOET_FAULT_LIST");
    int64_t rows = 0;
    moet_config config = *args->config;
    if (!wanted) return moet_fail(MOET_UNSUPPORTED, "faulty: no list");
    if (strcmp(wanted, "crash") == 0) raise(SIGSEGV);
    for (int32_t e = 0; e < args->problem->experts; e++) rows += counts[e];
    if (rows != args->max_rows) return moet_fail(MOET_INVALID, "faulty: counts of %lld rows", (long long)rows);
    for (int32_t i = 1; i <= atoi(wanted) && i <= limit && i < MOET_COUNT_OF(listed_values) - 1; i++) {
        config.value[1] = (int16_t)i;
        MOET_TRY(visit(context, &config));
    }
    return MOET_OK;
}

static moet_prepare_args inner_args(const moet_prepare_args *args, const moet_config *config)
{
    moet_prepare_args inner = *args;
    inner.config = config;
    inner.cubin_count = 0;
    return inner;
}

static size_t faulty_workspace_bytes(const moet_prepare_args *args)
{
    const moet_family *inner = inner_of(args->config->family);
    const moet_config config = inner_config(inner, args->problem, args->max_rows, &args->device->info);
    const moet_prepare_args computes = inner_args(args, &config);
    if (strcmp(moet_config_text(args->config, 0), "greedy") == 0) return GREEDY_BYTES;
    return inner->workspace_bytes(&computes);
}

static void faulty_release(void *state)
{
    faulty_state *s = state;
    if (!s) return;
    s->config.family->release(s->inner);
#ifdef MOET_CUDA
    if (s->module) moet_module_unload(s->module);
    moet_cubin_release(&s->cubin);
#endif
    free(s);
}

static moet_status prepare_inner(const moet_prepare_args *args, faulty_state **state)
{
    faulty_state *s = calloc(1, sizeof *s);
    if (!s) return moet_fail(MOET_NO_MEMORY, "faulty: no memory");
    s->config = inner_config(inner_of(args->config->family), args->problem, args->max_rows, &args->device->info);
    s->fault = args->config->value[0];
    s->out_row_bytes = (size_t)moet_problem_n(args->problem) * 2;
    s->k = moet_problem_k(args->problem);
    const moet_prepare_args computes = inner_args(args, &s->config);
    moet_status status = s->config.family->prepare(&computes, &s->inner);
    if (status != MOET_OK) {
        free(s);
        return status;
    }
    *state = s;
    return MOET_OK;
}

static moet_status faulty_prepare(const moet_prepare_args *args, void **state)
{
    faulty_state *s = NULL;
    if (args->config->value[0] == FAULT_CRASH_PREPARE) raise(SIGSEGV);
    if (args->config->value[0] == FAULT_STARVED) return moet_fail(MOET_NO_MEMORY, "faulty: no host memory is left");
    MOET_TRY(prepare_inner(args, &s));
    *state = s;
    return MOET_OK;
}

static float bf16_value(uint16_t bits)
{
    const union {
        uint32_t bits;
        float value;
    } wide = {(uint32_t)bits << 16};
    return wide.value;
}

/* Whether a row of x is of the scale at which a fault is off. */
static bool is_off(int32_t fault, const uint16_t *row, int64_t k)
{
    float most = 0;
    bool is_mirrored = true;
    for (int64_t i = 0; i < k; i++) {
        const float size = bf16_value(row[i] & 0x7fff);
        most = size > most ? size : most;
        is_mirrored = is_mirrored && row[i] == row[i % (k / 2)];
    }
    return fault == FAULT_OFF_LARGE ? most > 64 : fault == FAULT_OFF_SMALL ? most < 0.125f : is_mirrored;
}

/* The last bit of the first element of such rows. */
static void flip_off(const faulty_state *s, const moet_family_launch_args *args)
{
    const int64_t n = (int64_t)(s->out_row_bytes / 2);
    for (int64_t row = 0; row < args->rows; row++) {
        if (is_off(s->fault, (const uint16_t *)args->x + row * s->k, s->k)) ((uint16_t *)args->out)[row * n] ^= 1;
    }
}

static void wait_slow(int64_t launch)
{
    const char *slow = getenv("MOET_FAULT_SLOW");
    const long growing_ns = GROWING_NS << (launch < MOST_GROWN ? launch : MOST_GROWN);
    if (!slow) return;
    nanosleep(&(struct timespec){.tv_nsec = strcmp(slow, "growing") == 0 ? growing_ns : SLOWER_NS}, NULL);
}

static moet_status faulty_launch(void *state, const moet_family_launch_args *args)
{
    faulty_state *s = state;
    const int64_t launch = s->launches++;
    const char *file = getenv("MOET_FAULT_FILE");
    const bool late = launch >= 2; /* than those that are verified */
    if (s->fault == FAULT_CRASH || (s->fault == FAULT_CRASH_LATE && late)) raise(SIGSEGV);
    if (s->fault == FAULT_TOLD && file && unlink(file) == 0) raise(SIGSEGV);
    if (s->fault == FAULT_ABORT) abort();
    if (s->fault == FAULT_EXIT) _exit(7);
    if (s->fault == FAULT_HANG || (s->fault == FAULT_HANG_LATE && late)) spin();
    if (s->fault == FAULT_SLOW_ONCE && launch == 0) nanosleep(&(struct timespec){.tv_nsec = SLOW_NS}, NULL);
    wait_slow(launch);
    if (s->fault == FAULT_ERROR) return moet_fail(MOET_DEVICE, "faulty: an error that is no lasting one");
    MOET_TRY(s->config.family->launch(s->inner, args));
    if (s->fault >= FAULT_OFF_LARGE) flip_off(s, args);
    if (s->fault == FAULT_WRONG) *(uint16_t *)args->out ^= 0x4000;
    if (s->fault == FAULT_OUTSIDE) ((uint8_t *)args->out)[(size_t)args->rows * s->out_row_bytes] = 0;
    return MOET_OK;
}

extern const moet_family moet_family_faulty;
const moet_family moet_family_faulty = {
    .name = "faulty",
    .version = 1,
    .backend = "host",
    .summary = "host_tile, and harm",
    .params = params,
    .param_count = MOET_COUNT_OF(params),
    .traits = faulty_traits,
    .applicable = faulty_applicable,
    .default_config = faulty_default_config,
    .workspace_bytes = faulty_workspace_bytes,
    .prepare = faulty_prepare,
    .launch = faulty_launch,
    .release = faulty_release,
    .list = faulty_list,
};

/* ---- on a GPU ---- */

#ifdef MOET_CUDA
#include "../src/cuda_api.h"

#define CUDA_FAULT_TABLE(X)                                                                                            \
    X(CUDA_NONE, "none")                                                                                               \
    X(CUDA_ILLEGAL, "illegal")           /* a store to no memory, in the first launch: the context is lost */          \
    X(CUDA_ILLEGAL_LATE, "illegal_late") /* in the graph that is timed */                                              \
    X(CUDA_TRAP, "trap")                                                                                               \
    X(CUDA_HANG, "hang")                                                                                               \
    X(CUDA_HANG_LATE, "hang_late")                                                                                     \
    X(CUDA_CRASH, "crash") /* of the process, while the device works */                                                \
    X(CUDA_GREEDY, "greedy")
enum {
#define X(name, text) FAULT_##name,
    CUDA_FAULT_TABLE(X)
#undef X
};
static const char *const cuda_fault_values[] = {
#define X(name, text) text,
    CUDA_FAULT_TABLE(X)
#undef X
        NULL};
static const moet_param cuda_params[] = {{"fault", cuda_fault_values, MOET_SEARCH_FIRST}};

static const char harm_text[] =
    "extern \"C\" __global__ void moet_harm(int fault, unsigned long long ns)\n"
    "{\n"
    "    unsigned long long begin, now;\n"
    "    if (fault == 0) *(volatile int *)16 = 1;\n"
    "    if (fault == 1) asm volatile(\"trap;\");\n"
    "    asm volatile(\"mov.u64 %0, %%globaltimer;\" : \"=l\"(begin));\n"
    "    do asm volatile(\"mov.u64 %0, %%globaltimer;\" : \"=l\"(now)); while (now - begin < ns);\n"
    "}\n";
enum { HARM_ILLEGAL, HARM_TRAP, HARM_SPIN };

static moet_status cuda_prepare(const moet_prepare_args *args, void **state)
{
    static const char *const names[] = {"moet_harm"};
    char arch[16];
    faulty_state *s = NULL;
    snprintf(arch, sizeof arch, "sm_%d%d", args->device->info.cc_major, args->device->info.cc_minor);
    const moet_source source = {.name = "moet_harm.cu", .text = harm_text, .arch = arch};
    MOET_TRY(prepare_inner(args, &s));
    moet_status status = moet_module_compile(&source, &s->cubin, NULL);
    if (status == MOET_OK) status = moet_module_load(&s->cubin, names, 1, &s->module, &s->kernel);
    if (status != MOET_OK) {
        faulty_release(s);
        return status;
    }
    *state = s;
    return MOET_OK;
}

static moet_status harm(const faulty_state *s, int fault, void *stream)
{
    const struct moet_cuda_api *cuda;
    unsigned long long ns = HANG_S * 1000000000ull;
    void *arguments[] = {&fault, &ns};
    MOET_TRY(moet_cuda_api_get(&cuda));
    CUresult result = cuda->cuLaunchKernel(s->kernel, 1, 1, 1, 1, 1, 1, 0, stream, arguments, NULL);
    return result == CUDA_SUCCESS ? MOET_OK : moet_cuda_fail(result, "moet_harm: launch");
}

static moet_status cuda_launch(void *state, const moet_family_launch_args *args)
{
    faulty_state *s = state;
    const bool late = s->launches++ >= 2; /* the third is the first that is captured */
    if (s->fault == FAULT_CUDA_ILLEGAL || (s->fault == FAULT_CUDA_ILLEGAL_LATE && late))
        MOET_TRY(harm(s, HARM_ILLEGAL, args->stream));
    if (s->fault == FAULT_CUDA_TRAP) MOET_TRY(harm(s, HARM_TRAP, args->stream));
    if (s->fault == FAULT_CUDA_HANG || s->fault == FAULT_CUDA_CRASH || (s->fault == FAULT_CUDA_HANG_LATE && late))
        MOET_TRY(harm(s, HARM_SPIN, args->stream));
    if (s->fault == FAULT_CUDA_CRASH) raise(SIGSEGV);
    return s->config.family->launch(s->inner, args);
}

extern const moet_family moet_family_faulty_cuda;
const moet_family moet_family_faulty_cuda = {
    .name = "faulty_cuda",
    .version = 1,
    .backend = "cuda",
    .summary = "mma_gemm, and harm",
    .params = cuda_params,
    .param_count = 1,
    .traits = faulty_traits,
    .applicable = faulty_applicable,
    .default_config = faulty_default_config,
    .workspace_bytes = faulty_workspace_bytes,
    .prepare = cuda_prepare,
    .launch = cuda_launch,
    .release = faulty_release,
};
#endif

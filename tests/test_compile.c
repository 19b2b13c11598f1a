/* Configs of every family that compiles CUDA compile by NVRTC, for 8.0 and 9.0, without register spills or local
 * memory. No GPU is needed; without NVRTC there is nothing to compile and the test is skipped.
 *
 *   MOET_TEST_COMPILE=pairs        the default: a set of configs in which every pair of values of two parameters, the
 *                                  layout and the bias among them, occurs; some: of wgmma_gemm, whose kernels take
 *                                  longest, every second of these; all: every config; count: says how many kernels
 *                                  pairs and all are; none: only errors and the cache
 *   MOET_TEST_ARCH=9.0             only for this compute capability (8.0 or 9.0)
 *   MOET_TEST_JOBS=N               processes at a time; default 2
 *   MOET_CACHE_DIR                 where compiled kernels are kept: a second run only reads them. ptxas reports spills
 *                                  when it compiles, so after a failure the folder is emptied. */
#include "configs.h"

#include "../kernels/counts_source.h"
#include "../kernels/ep_source.h"

#include <sys/wait.h>
#include <unistd.h>

static moet_source *sources; /* without repeats */
static int32_t source_count;

static void add_source(const moet_source *source)
{
    for (int32_t i = source_count - 1; i >= 0; i--) /* neighbours are alike */
        if (test_same_source(&sources[i], source)) return;
    sources = realloc(sources, ((size_t)source_count + 1) * sizeof *sources);
    assert_non_null(sources);
    sources[source_count++] = *source;
}

/* What the configs of a family compile for one architecture: both layouts, with and without bias, few experts and the
 * most, whose tables in shared memory leave room for fewer stages. */
static void gather_family(const moet_family *family, const moet_device_info *info, bool all)
{
    moet_problem problems[8];
    test_configs configs;
    const int32_t before = source_count;
    for (int32_t variant = 0; variant < MOET_COUNT_OF(problems); variant++) {
        moet_problem_init(&problems[variant], MOET_OP_UP, variant & 4 ? MOET_MAX_EXPERTS : 8, 1024, 512);
        problems[variant].layout = variant & 1 ? MOET_LAYOUT_KN : MOET_LAYOUT_NK;
        problems[variant].bias = variant & 2;
    }
    test_configs_create(family, problems, MOET_COUNT_OF(problems), info, !all, &configs);
    for (int32_t i = 0; i < configs.count; i++) {
        const test_choice *choice = &configs.choices[i];
        moet_source source;
        int32_t index = 0;
        while (family->source(&problems[choice->problem], &choice->config, info->cc_major, info->cc_minor, index,
                              &source)) {
            if (index++ == MOET_MAX_CUBINS) test_fail("%s: more than %d sources", family->name, MOET_MAX_CUBINS);
            add_source(&source);
        }
        if (index == 0) test_fail("%s: no source for %d.%d", family->name, info->cc_major, info->cc_minor);
    }
    if (configs.legal > 0)
        print_message("%s for %d.%d: %d of %lld configs, %d kernels more\n", family->name, info->cc_major,
                      info->cc_minor, configs.count, (long long)configs.legal, source_count - before);
    test_configs_destroy(&configs);
}

/* With the activations, a pairwise set always: each is as many kernels as there are without. test_fused runs them. */
static void gather_fused(const moet_family *family, const moet_device_info *info)
{
    moet_problem problems[TEST_FUSED_PROBLEMS];
    test_configs configs;
    const int32_t before = source_count;
    test_fused_problems(1024, 512, problems);
    test_configs_create(family, problems, TEST_FUSED_PROBLEMS, info, true, &configs);
    for (int32_t i = 0; i < configs.count; i++) {
        moet_problem problem;
        moet_config config;
        moet_source source;
        char why[MOET_REASON_SIZE];
        if (!test_fused_choice(&configs.choices[i], problems, info, i, &problem, &config)) continue;
        const moet_problem few = problem;
        if (i % 5 == 4) problem.experts = MOET_MAX_EXPERTS;
        if (!family->applicable(&problem, &config, info, why)) problem = few; /* no room for their tables */
        assert_true(family->source(&problem, &config, info->cc_major, info->cc_minor, 0, &source));
        add_source(&source);
        if (i % 3 != 0) continue; /* some of them in the other numerics too */
        problem.numerics = MOET_NUMERICS_FAST;
        assert_true(family->source(&problem, &config, info->cc_major, info->cc_minor, 0, &source));
        add_source(&source);
    }
    if (configs.legal > 0)
        print_message("%s with an activation for %d.%d: %d of %lld configs, %d kernels more\n", family->name,
                      info->cc_major, info->cc_minor, configs.count, (long long)configs.legal, source_count - before);
    test_configs_destroy(&configs);
}

/* With the down GEMM in the same launch, which scatters or not, has a bias or not. */
static void gather_chained(const moet_family *family, const moet_device_info *info)
{
    moet_problem problems[TEST_FUSED_PROBLEMS];
    test_configs configs;
    const int32_t before = source_count;
    test_fused_problems(1024, 512, problems);
    test_configs_create(family, problems, TEST_FUSED_PROBLEMS, info, true, &configs);
    for (int32_t i = 0; family->fuses_next && i < configs.count; i++) {
        moet_problem problem;
        moet_config config;
        moet_source source;
        char why[MOET_REASON_SIZE];
        if (!test_fused_choice(&configs.choices[i], problems, info, i, &problem, &config)) continue;
        config.chains = true;
        config.scatters = i & 1;
        problem.down_bias = i & 2;
        problem.numerics = i % 3 == 2 ? MOET_NUMERICS_FAST : MOET_NUMERICS_TRAIN;
        if (!family->applicable(&problem, &config, info, why)) continue;
        const moet_problem few = problem;
        if (i & 4) problem.experts = MOET_MAX_EXPERTS;
        if (!family->applicable(&problem, &config, info, why)) problem = few; /* no room for their tables */
        assert_true(family->source(&problem, &config, info->cc_major, info->cc_minor, 0, &source));
        add_source(&source);
    }
    if (source_count > before)
        print_message("%s chained for %d.%d: %d kernels more\n", family->name, info->cc_major, info->cc_minor,
                      source_count - before);
    test_configs_destroy(&configs);
}

/* With rows that are stored elsewhere, a pairwise set always. test_fused runs them. */
static void gather_scattering(const moet_family *family, const moet_device_info *info)
{
    moet_problem problems[TEST_FUSED_PROBLEMS];
    test_configs configs;
    const int32_t before = source_count;
    test_fused_problems(1024, 512, problems);
    for (int32_t i = 0; i < TEST_FUSED_PROBLEMS; i++) problems[i].activation = MOET_ACTIVATION_NONE;
    test_configs_create(family, problems, TEST_FUSED_PROBLEMS, info, true, &configs);
    for (int32_t i = 0; i < configs.count; i++) {
        moet_config config = configs.choices[i].config;
        moet_source source;
        char why[MOET_REASON_SIZE];
        config.scatters = true;
        if (!family->applicable(&problems[configs.choices[i].problem], &config, info, why)) continue;
        assert_true(
            family->source(&problems[configs.choices[i].problem], &config, info->cc_major, info->cc_minor, 0, &source));
        add_source(&source);
    }
    if (configs.legal > 0)
        print_message("%s scattering for %d.%d: %d of %lld configs, %d kernels more\n", family->name, info->cc_major,
                      info->cc_minor, configs.count, (long long)configs.legal, source_count - before);
    test_configs_destroy(&configs);
}

/* Of a path the kernels that are not its GEMMs', which are compiled for their own family: the same for all problems. */
static void gather_path(const moet_family *family, const moet_device_info *info)
{
    moet_problem problem;
    moet_config config;
    moet_source source;
    moet_problem_init(&problem, MOET_OP_FFN, 8, 1024, 512);
    moet_config_first(family, &config);
    for (int32_t i = 0; i < 3; i++) {
        const bool is_there = family->source(&problem, &config, info->cc_major, info->cc_minor, i, &source);
        if (i == 2 && !is_there) test_fail("%s: no stages for %d.%d", family->name, info->cc_major, info->cc_minor);
    }
    assert_false(family->source(&problem, &config, info->cc_major, info->cc_minor, 3, &source));
    family->source(&problem, &config, info->cc_major, info->cc_minor, 2, &source);
    add_source(&source);
}

/* Leaves every second source of wgmma_gemm out. */
static void keep_some(void)
{
    int32_t kept = 0;
    for (int32_t i = 0; i < source_count; i++) {
        if (i % 2 == 0 || strcmp(sources[i].name, "wgmma_gemm.cu") != 0) sources[kept++] = sources[i];
    }
    source_count = kept;
}

static void gather(bool all)
{
    static const int32_t architectures[][2] = {{8, 0}, {9, 0}};
    const char *only = getenv("MOET_TEST_ARCH");
#ifdef MOET_CUDA
    for (int32_t a = 0; a < MOET_COUNT_OF(architectures); a++) { /* what is no family's */
        moet_source source;
        if (only && atoi(only) != architectures[a][0]) continue;
        assert_true(moet_ep_source(architectures[a][0], architectures[a][1], &source));
        add_source(&source);
        assert_true(moet_counts_source(architectures[a][0], architectures[a][1], &source));
        add_source(&source);
    }
#endif
    for (int32_t i = 0; moet_families[i]; i++) {
        if (!moet_families[i]->source) continue;
        for (int32_t a = 0; a < MOET_COUNT_OF(architectures); a++) {
            const int32_t *cc = architectures[a];
            moet_device_info info = {.backend = "cuda",
                                     .name = "any",
                                     .cc_major = cc[0],
                                     .cc_minor = cc[1],
                                     .sm_count = 132,
                                     .smem_per_block_optin_bytes = cc[0] == 9 ? 232448 : 166912};
            if (only && atoi(only) != cc[0]) continue;
            if (moet_families[i]->gemm)
                gather_path(moet_families[i], &info);
            else
                gather_family(moet_families[i], &info, all);
            if (moet_families[i]->fuses_activation) gather_fused(moet_families[i], &info);
            if (moet_families[i]->fuses_next) gather_chained(moet_families[i], &info);
            if (moet_families[i]->fuses_scatter) gather_scattering(moet_families[i], &info);
        }
    }
}

/* Sum of the numbers before `unit` in the resource report of ptxas; -1: there is none. */
static int64_t sum_of(const char *log, const char *unit)
{
    int64_t sum = -1;
    for (const char *at = log; (at = strstr(at, unit)); at++) {
        const char *number = at;
        while (number > log && number[-1] >= '0' && number[-1] <= '9') number--;
        sum = (sum < 0 ? 0 : sum) + atoll(number);
    }
    return sum;
}

/* Nothing is spilled, no array that should be in registers is in local memory, tensor instructions overlap. */
static int check_log(const moet_source *source, const char *log)
{
    const int64_t spilled = sum_of(log, " bytes spill stores"), local = sum_of(log, " bytes stack frame");
    if (spilled < 0 || local < 0)
        fprintf(stderr, "%s %s: no resource report in the log: %.300s\n", source->name, source->arch, log);
    else if (spilled > 0 || local > 0)
        fprintf(stderr, "%s %s %s: %lld bytes of registers are spilled, %lld bytes of local memory\n", source->name,
                source->arch, source->option_count ? source->options[0] : "", (long long)spilled, (long long)local);
    /* ptxas then waits for every wgmma by itself. */
    const bool is_serial = strstr(log, "instructions are serialized") != NULL;
    if (is_serial)
        fprintf(stderr, "%s %s %s: wgmma instructions are serialized\n", source->name, source->arch,
                source->option_count ? source->options[0] : "");
    return spilled != 0 || local != 0 || is_serial;
}

static int compile_one(const moet_source *source)
{
    moet_cubin cubin = {0};
    char *log = NULL;
    if (moet_module_compile(source, &cubin, &log) != MOET_OK) {
        fprintf(stderr, "%s\n", moet_last_error());
        for (int32_t i = 0; i < source->option_count; i++) fprintf(stderr, "  %s\n", source->options[i]);
        return 1;
    }
    int bad = cubin.size_bytes < 1000 || memcmp(cubin.bytes, "\177ELF", 4) != 0;
    if (bad) fprintf(stderr, "%s %s: what came back is no cubin\n", source->name, source->arch);
    if (log) bad |= check_log(source, log);
    free(log);
    moet_cubin_release(&cubin);
    return bad;
}

static void test_all_compile(void **state)
{
    (void)state;
    const char *mode = getenv("MOET_TEST_COMPILE"), *jobs_text = getenv("MOET_TEST_JOBS");
    int32_t jobs = jobs_text && atoi(jobs_text) > 0 ? atoi(jobs_text) : 2;
    if (jobs > 64) jobs = 64;
    if (moet_module_compiler_version() == 0) {
        moet_source nothing = {.name = "nothing", .text = "", .arch = "sm_80"};
        moet_cubin cubin;
        assert_int_not_equal(moet_module_compile(&nothing, &cubin, NULL), MOET_OK);
        print_message("skipped: %s\n", moet_last_error());
        skip();
    }
    if (!mode || !mode[0]) mode = "pairs";
    if (strcmp(mode, "none") == 0) skip();
    const bool all = strcmp(mode, "all") == 0, counts = strcmp(mode, "count") == 0;
    const bool some = strcmp(mode, "some") == 0;
    if (!all && !counts && !some && strcmp(mode, "pairs") != 0) test_fail("MOET_TEST_COMPILE=%s: no such mode", mode);
    if (counts) {
        gather(false);
        gather(true);
        skip();
    }
    gather(all);
    if (some) keep_some();
    assert_true(source_count > 0);
    print_message("%d kernels (%s; MOET_TEST_COMPILE=all compiles every one), NVRTC %d, %d processes\n", source_count,
                  all    ? "of every config"
                  : some ? "of a pairwise set of configs, some left out"
                         : "of a pairwise set of configs",
                  moet_module_compiler_version(), jobs);
    for (int32_t job = 0; job < jobs; job++) {
        pid_t child = fork();
        assert_true(child >= 0);
        if (child > 0) continue;
        int bad = 0;
        for (int32_t i = job; i < source_count; i += jobs) bad += compile_one(&sources[i]);
        _exit(bad ? 1 : 0);
    }
    int failed = 0;
    for (int32_t job = 0; job < jobs; job++) {
        int result = 0;
        assert_true(wait(&result) > 0);
        failed += !WIFEXITED(result) || WEXITSTATUS(result) != 0;
    }
    /* A spilling kernel must not pass by the cache when the test is run again. */
    if (failed && getenv("MOET_CACHE_DIR")) test_folder_remove(getenv("MOET_CACHE_DIR"));
    assert_int_equal(failed, 0);
    free(sources);
}

/* What does not compile says so in one line with the compiler's own words. */
static void test_error(void **state)
{
    (void)state;
    if (moet_module_compiler_version() == 0) skip();
    static const moet_source bad = {
        .name = "bad.cu", .text = "__global__ void f(int *p) { *p = nonsense; }\n", .arch = "sm_80"};
    static const moet_source no_arch = {
        .name = "fine.cu", .text = "__global__ void f(int *p) { *p = 1; }\n", .arch = "sm_7"};
    static const moet_source fine = {
        .name = "fine.cu", .text = "extern \"C\" __global__ void f(int *p) { *p = 1; }\n", .arch = "sm_80"};
    moet_cubin cubin = {0}, again = {0}, copy = {0};
    char *log = NULL;
    TEST_FAILS(MOET_COMPILE, "nonsense", moet_module_compile(&bad, &cubin, NULL));
    TEST_CONTAINS(moet_last_error(), "bad.cu");
    TEST_FAILS(MOET_COMPILE, "fine.cu", moet_module_compile(&no_arch, &cubin, NULL));
    assert_null(cubin.bytes);

    /* The cache: the same bytes the second time, without a log; damaged, it is not used. */
    char folder[256], command[600];
    test_folder_make(folder);
    setenv("MOET_CACHE_DIR", folder, 1);
    TEST_OK(moet_module_compile(&fine, &cubin, &log));
    assert_non_null(log);
    free(log);
    log = NULL;
    assert_true(test_file_count(folder) > 0);
    TEST_OK(moet_module_compile(&fine, &again, &log));
    assert_null(log);
    assert_string_equal(cubin.sha256, again.sha256);
    assert_string_equal(again.arch, "sm_80");
    moet_cubin_release(&again);
    snprintf(
        command, sizeof command,
        "find '%s' -type f -exec sh -c 'printf damage | dd of=\"$1\" bs=1 seek=100 conv=notrunc 2>/dev/null' _ {} \\;",
        folder);
    assert_int_equal(system(command), 0);
    TEST_OK(moet_module_compile(&fine, &again, &log));
    assert_non_null(log);
    assert_string_equal(cubin.sha256, again.sha256);
    TEST_OK(moet_cubin_copy(&again, &copy));
    assert_memory_equal(copy.bytes, cubin.bytes, cubin.size_bytes);
    moet_cubin_release(&copy);
    moet_cubin_release(&copy);
    moet_cubin_release(&again);
    moet_cubin_release(&cubin);
    free(log);
    test_folder_remove(folder);
    /* A cache that cannot be written costs time only. */
    setenv("MOET_CACHE_DIR", "/proc/none/at/all", 1);
    TEST_OK(moet_module_compile(&fine, &cubin, NULL));
    moet_cubin_release(&cubin);
    unsetenv("MOET_CACHE_DIR");
}

/* Help for who looks for faults in wgmma_gemm, by the environment: off unless asked for, and then it compiles. */
static void test_help(void **state)
{
    (void)state;
    static const char *const names[] = {"MOET_WATCHDOG", "MOET_RACECHECK"};
    const moet_family *family = moet_family_find("wgmma_gemm");
    if (!family || moet_module_compiler_version() == 0) skip();
    moet_device_info info = {
        .backend = "cuda", .name = "any", .cc_major = 9, .sm_count = 132, .smem_per_block_optin_bytes = 232448};
    moet_problem problem;
    moet_config config = {.family = family};
    moet_source plain, helped;
    moet_cubin cubin = {0};
    moet_problem_init(&problem, MOET_OP_UP, 8, 1024, 512);
    family->default_config(&problem, 4096, &info, &config);
    for (int32_t i = 0; i < MOET_COUNT_OF(names); i++) unsetenv(names[i]);
    assert_true(family->source(&problem, &config, 9, 0, 0, &plain));
    for (int32_t i = 0; i < MOET_COUNT_OF(names); i++) {
        setenv(names[i], "1", 1);
        assert_true(family->source(&problem, &config, 9, 0, 0, &helped));
        unsetenv(names[i]);
        assert_int_equal(helped.option_count, plain.option_count + 1);
        TEST_OK(moet_module_compile(&helped, &cubin, NULL));
        moet_cubin_release(&cubin);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_compile),
        cmocka_unit_test(test_help),
        cmocka_unit_test(test_error),
    };
    return cmocka_run_group_tests_name("compile", tests, NULL, NULL);
}

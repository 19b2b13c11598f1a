/* module: kernels from source text to loaded functions. The disk cache is module_cache.h's. */
#include "module.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void moet_cubin_release(moet_cubin *cubin)
{
    if (!cubin) return;
    free(cubin->bytes);
    *cubin = (moet_cubin){0};
}

moet_status moet_cubin_copy(const moet_cubin *from, moet_cubin *to)
{
    moet_cubin result = *from;
    if (from->bytes) {
        result.bytes = malloc(from->size_bytes ? from->size_bytes : 1);
        if (!result.bytes)
            return moet_fail(MOET_NO_MEMORY, "copying a cubin of %zu bytes: out of memory", from->size_bytes);
        memcpy(result.bytes, from->bytes, from->size_bytes);
    }
    *to = result;
    return MOET_OK;
}

void moet_source_option(moet_source *source, const char *format, ...)
{
    assert(source->option_count < MOET_SOURCE_MAX_OPTIONS);
    char *option = source->options[source->option_count++];
    va_list args;
    va_start(args, format);
    int length = vsnprintf(option, sizeof source->options[0], format, args);
    va_end(args);
    assert(length >= 0 && (size_t)length < sizeof source->options[0]);
    (void)length;
}

#ifdef MOET_CUDA
#include <nvrtc.h>
#include <pthread.h>

#include "cuda_api.h"
#include "file.h"
#include "module_cache.h"

#define MIN_COMPILER_VERSION 12010 /* the first that accepts all options below and sm_90a as we use it */

/* ---- NVRTC, bound at run time ---- */

#define NVRTC_FUNCTIONS(X)                                                                                             \
    X(nvrtcVersion)                                                                                                    \
    X(nvrtcGetErrorString)                                                                                             \
    X(nvrtcCreateProgram)                                                                                              \
    X(nvrtcDestroyProgram)                                                                                             \
    X(nvrtcCompileProgram)                                                                                             \
    X(nvrtcGetProgramLogSize)                                                                                          \
    X(nvrtcGetProgramLog)                                                                                              \
    X(nvrtcGetCUBINSize)                                                                                               \
    X(nvrtcGetCUBIN)

typedef struct nvrtc_api {
#define MOET_X(function) __typeof__(function) *function;
    NVRTC_FUNCTIONS(MOET_X)
#undef MOET_X
} nvrtc_api;

static const moet_symbol nvrtc_symbols[] = {
#define MOET_X(function) {#function, offsetof(nvrtc_api, function), false},
    NVRTC_FUNCTIONS(MOET_X)
#undef MOET_X
};

/* Written once, under nvrtc_once. */
static pthread_once_t nvrtc_once = PTHREAD_ONCE_INIT;
static nvrtc_api nvrtc_bound;
static int32_t nvrtc_version;
static moet_status nvrtc_status;
static char nvrtc_error[512];

static moet_status nvrtc_bind(void)
{
    static const char *const sonames[] = {"libnvrtc.so.13", "libnvrtc.so.12", "/usr/local/cuda/lib64/libnvrtc.so.13",
                                          "/usr/local/cuda/lib64/libnvrtc.so.12", NULL};
    int major = 0, minor = 0;
    MOET_TRY(moet_library_bind(sonames, nvrtc_symbols, MOET_COUNT_OF(nvrtc_symbols), &nvrtc_bound, NULL));
    if (nvrtc_bound.nvrtcVersion(&major, &minor) != NVRTC_SUCCESS)
        return moet_fail(MOET_MISMATCH, "NVRTC does not tell its version");
    nvrtc_version = 1000 * major + 10 * minor;
    if (nvrtc_version < MIN_COMPILER_VERSION)
        return moet_fail(MOET_MISMATCH, "NVRTC %d.%d found, %d.%d or later needed", major, minor,
                         MIN_COMPILER_VERSION / 1000, MIN_COMPILER_VERSION % 1000 / 10);
    return MOET_OK;
}

static void nvrtc_bind_first(void)
{
    nvrtc_status = nvrtc_bind();
    if (nvrtc_status == MOET_NOT_FOUND)
        snprintf(nvrtc_error, sizeof nvrtc_error,
                 "NVRTC is not here: install libnvrtc (CUDA 12.1 or later), or use a table, which carries its compiled "
                 "kernels (%.300s)",
                 moet_last_error());
    else if (nvrtc_status != MOET_OK)
        snprintf(nvrtc_error, sizeof nvrtc_error, "%.500s", moet_last_error());
}

static moet_status nvrtc_get(const nvrtc_api **api)
{
    pthread_once(&nvrtc_once, nvrtc_bind_first);
    if (nvrtc_status != MOET_OK) return moet_fail(nvrtc_status, "%s", nvrtc_error);
    *api = &nvrtc_bound;
    return MOET_OK;
}

int32_t moet_module_compiler_version(void)
{
    pthread_once(&nvrtc_once, nvrtc_bind_first);
    return nvrtc_version;
}

/* ---- compiling ---- */

#define MAX_OPTIONS (MOET_SOURCE_MAX_OPTIONS + 8)

/* All options in the order given to NVRTC; arch_option is the caller's storage. */
static int gather_options(const moet_source *source, bool line_info, char arch_option[48],
                          const char *options[MAX_OPTIONS])
{
    int count = 0;
    snprintf(arch_option, 48, "--gpu-architecture=%s", source->arch);
    options[count++] = arch_option;
    options[count++] = "--std=c++17";
    options[count++] = "--device-as-default-execution-space";
    options[count++] = "--ptxas-options=-v"; /* registers and spills, in the log */
    if (line_info) options[count++] = "--generate-line-info";
    for (int32_t i = 0; i < source->option_count; i++) options[count++] = source->options[i];
    return count;
}

/* Hash of everything that the cubin depends on. */
static void make_key(const moet_source *source, const char *const *options, int option_count,
                     char key[MOET_SHA256_TEXT_SIZE])
{
    char source_hash[MOET_SHA256_TEXT_SIZE], text[MAX_OPTIONS * MOET_SOURCE_OPTION_SIZE + 700];
    moet_sha256_text(source->text, strlen(source->text), source_hash);
    int used = snprintf(text, sizeof text, "cubin 1\n%.500s\n%s\nnvrtc %d\n", source->name, source_hash, nvrtc_version);
    for (int i = 0; i < option_count; i++)
        used += snprintf(text + used, sizeof text - (size_t)used, "%s\n", options[i]);
    moet_sha256_text(text, (size_t)used, key);
}

/* The line of a compiler log that says what is wrong: the first with "error", else the first. */
static void find_error_line(const char *log, char line[200])
{
    const char *at = log ? strstr(log, "error") : NULL;
    if (!at) at = log ? log + strspn(log, "\n ") : "";
    while (at > log && at[-1] != '\n') at--;
    snprintf(line, 200, "%.*s", (int)strcspn(at, "\n"), at);
}

static char *read_log(const nvrtc_api *nvrtc, nvrtcProgram program)
{
    size_t size_bytes = 0;
    if (nvrtc->nvrtcGetProgramLogSize(program, &size_bytes) != NVRTC_SUCCESS) return NULL;
    char *log = calloc(1, size_bytes + 1);
    if (log && nvrtc->nvrtcGetProgramLog(program, log) != NVRTC_SUCCESS) log[0] = '\0';
    return log;
}

static moet_status compile(const nvrtc_api *nvrtc, const moet_source *source, const char *const *options,
                           int option_count, moet_cubin *cubin, char **log)
{
    nvrtcProgram program = NULL;
    char *text = NULL, line[200];
    size_t size_bytes = 0;
    moet_cubin result = {0};
    moet_status status = MOET_COMPILE;
    nvrtcResult rc = nvrtc->nvrtcCreateProgram(&program, source->text, source->name, 0, NULL, NULL);
    if (rc != NVRTC_SUCCESS) {
        moet_fail(status, "%s for %s: NVRTC: %s", source->name, source->arch, nvrtc->nvrtcGetErrorString(rc));
        goto done;
    }
    rc = nvrtc->nvrtcCompileProgram(program, option_count, options);
    text = read_log(nvrtc, program);
    if (rc == NVRTC_SUCCESS) rc = nvrtc->nvrtcGetCUBINSize(program, &size_bytes);
    if (rc != NVRTC_SUCCESS || size_bytes == 0) {
        find_error_line(text, line);
        moet_fail(status, "%s for %s: %s: %s", source->name, source->arch, nvrtc->nvrtcGetErrorString(rc), line);
        goto done;
    }
    result.bytes = malloc(size_bytes);
    if (!result.bytes) {
        status = moet_fail(MOET_NO_MEMORY, "%s: out of memory", source->name);
        goto done;
    }
    result.size_bytes = size_bytes;
    rc = nvrtc->nvrtcGetCUBIN(program, result.bytes);
    if (rc != NVRTC_SUCCESS) {
        moet_fail(status, "%s for %s: NVRTC: %s", source->name, source->arch, nvrtc->nvrtcGetErrorString(rc));
        goto done;
    }
    *cubin = result;
    result.bytes = NULL;
    if (log) {
        *log = text;
        text = NULL;
    }
    status = MOET_OK;
done:
    if (program) nvrtc->nvrtcDestroyProgram(&program);
    free(text);
    free(result.bytes);
    return status;
}

/* *named: the source, under its path in the folder MOET_LINE_INFO if line_info, which the environment says. */
static moet_status name_source(const moet_source *source, char path[512], moet_source *named, bool *line_info)
{
    const char *folder = getenv("MOET_LINE_INFO");
    *named = *source;
    *line_info = folder && *folder;
    if (!*line_info) return MOET_OK;
    if (snprintf(path, 512, "%s/%s", folder, source->name) >= 512)
        return moet_fail(MOET_INVALID, "MOET_LINE_INFO: the path of its folder is too long");
    named->name = path;
    return MOET_OK;
}

moet_status moet_module_compile(const moet_source *asked, moet_cubin *cubin, char **log)
{
    const nvrtc_api *nvrtc;
    char arch_option[48], key[MOET_SHA256_TEXT_SIZE], path[512];
    const char *options[MAX_OPTIONS];
    moet_cubin result = {0};
    char *result_log = NULL;
    bool line_info = false;
    moet_source named;
    const moet_source *source = &named;
    MOET_TRY(nvrtc_get(&nvrtc));
    MOET_TRY(name_source(asked, path, &named, &line_info));
    if (line_info) MOET_TRY(moet_file_replace(path, asked->text, strlen(asked->text)));
    int option_count = gather_options(source, line_info, arch_option, options);
    make_key(source, options, option_count, key);
    if (!moet_module_cache_read(key, &result)) {
        MOET_TRY(compile(nvrtc, source, options, option_count, &result, log ? &result_log : NULL));
        moet_module_cache_write(key, &result);
    }
    moet_sha256_text(result.bytes, result.size_bytes, result.sha256);
    snprintf(result.arch, sizeof result.arch, "%s", source->arch);
    *cubin = result;
    if (log) *log = result_log;
    return MOET_OK;
}

bool moet_module_is_cached(const moet_source *source)
{
    const nvrtc_api *nvrtc;
    char arch_option[48], key[MOET_SHA256_TEXT_SIZE], path[512];
    const char *options[MAX_OPTIONS];
    bool line_info = false;
    moet_source named;
    if (nvrtc_get(&nvrtc) != MOET_OK || name_source(source, path, &named, &line_info) != MOET_OK) return false;
    make_key(&named, options, gather_options(&named, line_info, arch_option, options), key);
    return moet_module_cache_has(key);
}

/* ---- loading ---- */

/* Results that mean "this cubin is not for this device or driver": another kernel may still serve. */
static bool is_unsuitable(CUresult result)
{
    return result == CUDA_ERROR_NO_BINARY_FOR_GPU || result == CUDA_ERROR_INVALID_IMAGE ||
           result == CUDA_ERROR_UNSUPPORTED_PTX_VERSION || result == CUDA_ERROR_INVALID_SOURCE ||
           result == CUDA_ERROR_INVALID_PTX || result == CUDA_ERROR_NOT_FOUND;
}

static moet_status load_failed(CUresult result, const char *what, const char *name)
{
    char text[160];
    snprintf(text, sizeof text, "%s %.100s", what, name);
    moet_status status = moet_cuda_fail(result, text);
    return is_unsuitable(result) ? moet_fail(MOET_MISMATCH, "%s", moet_last_error()) : status;
}

moet_status moet_module_load(const moet_cubin *cubin, const char *const *kernel_names, int32_t count, void **module,
                             void **functions)
{
    const struct moet_cuda_api *cuda;
    CUmodule loaded = NULL;
    MOET_TRY(moet_cuda_api_get(&cuda));
    CUresult result = cuda->cuModuleLoadData(&loaded, cubin->bytes);
    if (result != CUDA_SUCCESS) return load_failed(result, "loading a kernel compiled for", cubin->arch);
    for (int32_t i = 0; i < count; i++) {
        CUfunction function = NULL;
        result = cuda->cuModuleGetFunction(&function, loaded, kernel_names[i]);
        /* Lazy loading would otherwise put the load into the first launch. */
        if (result == CUDA_SUCCESS && cuda->func_load) result = cuda->func_load(function);
        if (result != CUDA_SUCCESS) {
            cuda->cuModuleUnload(loaded);
            return load_failed(result, "finding the kernel", kernel_names[i]);
        }
        functions[i] = function;
    }
    *module = loaded;
    return MOET_OK;
}

void moet_module_unload(void *module)
{
    const struct moet_cuda_api *cuda;
    if (module && moet_cuda_api_get(&cuda) == MOET_OK) cuda->cuModuleUnload(module);
}

#else /* a build without CUDA */

moet_status moet_module_compile(const moet_source *source, moet_cubin *cubin, char **log)
{
    (void)cubin, (void)log;
    return moet_fail(MOET_UNSUPPORTED, "%s: this build has no CUDA; rebuild where a CUDA toolkit is installed",
                     source->name);
}

bool moet_module_is_cached(const moet_source *source)
{
    (void)source;
    return false;
}

int32_t moet_module_compiler_version(void) { return 0; }

moet_status moet_module_load(const moet_cubin *cubin, const char *const *kernel_names, int32_t count, void **module,
                             void **functions)
{
    (void)cubin, (void)kernel_names, (void)count, (void)module, (void)functions;
    return moet_fail(MOET_UNSUPPORTED, "this build has no CUDA; rebuild where a CUDA toolkit is installed");
}

void moet_module_unload(void *module) { (void)module; }

#endif

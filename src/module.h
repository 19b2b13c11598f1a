/* module: CUDA kernels from source text to a loaded function: NVRTC, a cubin cache on disk, module loading.
 *
 * NVRTC is found by dlopen and compiles without a GPU; the cache ($MOET_CACHE_DIR, else $XDG_CACHE_HOME/moe-tune, else
 * ~/.cache/moe-tune) is keyed by source hash, options, NVRTC version and architecture, written by temp file and
 * rename, and checked by hash when read. A cache that cannot be written costs time, never a result.
 *
 * For a profiler's source page: where MOET_LINE_INFO names a folder, kernels are compiled with line information, and
 * their source texts are written there, under the names that it refers to. */
#ifndef MOET_MODULE_H
#define MOET_MODULE_H

#include "device.h"

#define MOET_SHA256_TEXT_SIZE 65

/* Hex SHA-256 of bytes (FIPS 180-4). */
void moet_sha256_text(const void *bytes, size_t size_bytes, char text[MOET_SHA256_TEXT_SIZE]);

/* A compiled kernel image. Owns bytes; moet_cubin_release frees them and zeroes the structure. */
typedef struct moet_cubin {
    void *bytes;
    size_t size_bytes;
    char sha256[MOET_SHA256_TEXT_SIZE];
    char arch[16]; /* "sm_80", "sm_90a" */
} moet_cubin;
void moet_cubin_release(moet_cubin *cubin);
moet_status moet_cubin_copy(const moet_cubin *from, moet_cubin *to);

#define MOET_SOURCE_MAX_OPTIONS 24
#define MOET_SOURCE_OPTION_SIZE 128
typedef struct moet_source {
    const char *name; /* "mma_gemm.cu": as messages and the profiler show it */
    const char *text; /* embedded source text */
    const char *arch; /* "sm_80", "sm_90a" */
    int32_t option_count;
    char options[MOET_SOURCE_MAX_OPTIONS][MOET_SOURCE_OPTION_SIZE]; /* "-DMOET_BM=128" */
} moet_source;

/* Appends "-D<name>=<value>" / any option text. Asserts on overflow: the options are ours. */
__attribute__((format(printf, 2, 3))) void moet_source_option(moet_source *source, const char *format, ...);

/* Compiles, or takes it from the cache. COMPILE carries the first line of the compiler's log; NOT_FOUND where NVRTC
 * cannot be loaded names the remedies. `log` (may be NULL) receives the malloc'd compiler log with the resource report
 * ("ptxas info ... spill stores"), NULL if the cubin came from the cache. */
moet_status moet_module_compile(const moet_source *source, moet_cubin *cubin, char **log);

/* Whether the cache has it, so that moet_module_compile would not compile; it may be found damaged yet. */
bool moet_module_is_cached(const moet_source *source);

/* NVRTC's version as 1000*major + 10*minor, 0 where it cannot be loaded. */
int32_t moet_module_compiler_version(void);

/* Loads a cubin into the current context and resolves `count` kernels by name into functions[] (CUfunction). Only with
 * CUDA in the build; UNSUPPORTED otherwise. */
moet_status moet_module_load(const moet_cubin *cubin, const char *const *kernel_names, int32_t count, void **module,
                             void **functions);
void moet_module_unload(void *module);

#endif

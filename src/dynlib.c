/* dynlib: libraries bound at run time, so that one binary starts on any machine. */
#include <dlfcn.h>
#include <limits.h>
#include <link.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "device.h"

static const char origin_prefix[] = "$ORIGIN/";

/* Folder of the binary that holds this code, ended by '/'; false where it cannot be told. */
static bool find_origin(char folder[PATH_MAX])
{
    Dl_info info;
    struct link_map *map = NULL;
    if (!dladdr1((void *)origin_prefix, &info, (void **)&map, RTLD_DL_LINKMAP)) return false;
    if (map && map->l_name && map->l_name[0]) {
        if (snprintf(folder, PATH_MAX, "%s", map->l_name) >= PATH_MAX) return false;
    } else { /* the executable itself: its link map has no name */
        ssize_t length = readlink("/proc/self/exe", folder, PATH_MAX - 1);
        if (length <= 0) return false;
        folder[length] = '\0';
    }
    char *slash = strrchr(folder, '/');
    if (!slash) return false;
    slash[1] = '\0';
    return true;
}

static void *open_library(const char *soname, int flags)
{
    if (strncmp(soname, origin_prefix, sizeof origin_prefix - 1) != 0) return dlopen(soname, flags);
    char path[PATH_MAX];
    if (!find_origin(path)) return NULL;
    size_t used = strlen(path);
    const char *file = soname + sizeof origin_prefix - 1;
    if (snprintf(path + used, PATH_MAX - used, "%s", file) >= (int)(PATH_MAX - used)) return NULL;
    return dlopen(path, flags);
}

/* A process that already runs one of them (a framework with its own cuBLAS) keeps it: two copies would each want
 * device memory, and versions could differ. */
static void *open_first(const char *const *sonames, const char **opened)
{
    static const int passes[] = {RTLD_NOW | RTLD_LOCAL | RTLD_NOLOAD, RTLD_NOW | RTLD_LOCAL};
    for (int32_t pass = 0; pass < MOET_COUNT_OF(passes); pass++) {
        for (int32_t i = 0; sonames[i]; i++) {
            void *library = open_library(sonames[i], passes[pass]);
            if (library) {
                *opened = sonames[i];
                return library;
            }
        }
    }
    return NULL;
}

static moet_status fail_not_found(const char *const *sonames)
{
    char tried[512] = "";
    size_t used = 0;
    for (int32_t i = 0; sonames[i] && used < sizeof tried; i++)
        used += (size_t)snprintf(tried + used, sizeof tried - used, "%s%s", i ? ", " : "", sonames[i]);
    const char *why = dlerror();
    return moet_fail(MOET_NOT_FOUND, "library not found: tried %s (%s)", tried, why ? why : "no further reason");
}

moet_status moet_library_bind(const char *const *sonames, const moet_symbol *symbols, int32_t symbol_count, void *api,
                              void **library)
{
    const char *opened = NULL;
    void *result = open_first(sonames, &opened);
    if (!result) return fail_not_found(sonames);
    for (int32_t i = 0; i < symbol_count; i++) {
        if (!symbols[i].optional && !dlsym(result, symbols[i].name))
            return moet_fail(MOET_MISMATCH, "library %s lacks the function %s: it is too old or not what it says",
                             opened, symbols[i].name);
    }
    for (int32_t i = 0; i < symbol_count; i++) {
        void *function = dlsym(result, symbols[i].name);
        memcpy((char *)api + symbols[i].offset, &function, sizeof function);
    }
    if (library) *library = result;
    return MOET_OK;
}

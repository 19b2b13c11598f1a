/* host_bind: libmoet's way to libmoet_host.so, loaded once, when a host family is first asked for. */
#include <pthread.h>
#include <stdio.h>

#include "../src/family.h"
#include "host_module.h"

/* Written once by bind_module. */
static struct {
    const moet_host_api *api;
    moet_status status;
    char why[MOET_REASON_SIZE];
} bound;

static void bind_module(void)
{
    static const char *const sonames[] = {"$ORIGIN/libmoet_host.so", "$ORIGIN/../lib/libmoet_host.so",
                                          "$ORIGIN/../lib/moet/libmoet_host.so", "libmoet_host.so", NULL};
    static const moet_symbol symbols[] = {{"moet_host_module", 0, false}};
    const moet_host_api *api = NULL;
    bound.status = moet_library_bind(sonames, symbols, MOET_COUNT_OF(symbols), (void *)&api, NULL);
    if (bound.status == MOET_NOT_FOUND) {
        snprintf(bound.why, sizeof bound.why,
                 "the host kernels, libmoet_host.so, did not load: put it beside libmoet or moe-tune, or beside your "
                 "program where libmoet is linked into that, and install libgomp1");
    } else if (bound.status != MOET_OK) {
        snprintf(bound.why, sizeof bound.why, "%.200s", moet_last_error());
    } else if (api->interface != MOET_HOST_INTERFACE) {
        bound.status = MOET_MISMATCH;
        snprintf(bound.why, sizeof bound.why,
                 "libmoet_host.so has interface %d, this libmoet needs %d: install both from one build", api->interface,
                 MOET_HOST_INTERFACE);
    } else {
        bound.api = api;
    }
}

moet_status moet_host_bind(const moet_host_api **module)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, bind_module);
    if (bound.status != MOET_OK) return moet_fail(bound.status, "%s", bound.why);
    *module = bound.api;
    return MOET_OK;
}

moet_status moet_host_bind_blas(const moet_host_api **module, moet_host_blas_info *info)
{
    const moet_host_api *api = NULL;
    moet_host_blas_info result;
    char why[MOET_REASON_SIZE];
    MOET_TRY(moet_host_bind(&api));
    if (!api->blas_open(&result, why)) return moet_fail(MOET_NOT_FOUND, "%s", why);
    *module = api;
    *info = result;
    return MOET_OK;
}

/* nvtx.c: see nvtx.h. */
#include "nvtx.h"

#ifdef MOET_NVTX

#include <nvtx3/nvToolsExt.h>
#include <pthread.h>
#include <stdatomic.h>

static const char *const names[] = {
#define MOET_X(name, text) text,
    MOET_NVTX_TABLE(MOET_X)
#undef MOET_X
};

/* Written once, under once. Without a tool the domain is NULL, for good: NVTX looks for one in its first call only. */
static pthread_once_t once = PTHREAD_ONCE_INIT;
static atomic_int known; /* 0: not yet; else an answer */
enum { SILENT = 1, LISTENING };
static nvtxDomainHandle_t domain;
static nvtxStringHandle_t kind_texts[MOET_NVTX_KIND_COUNT];

static void create_domain(void)
{
    domain = nvtxDomainCreateA("moe-tune");
    for (uint32_t i = 0; domain && i < MOET_NVTX_KIND_COUNT; i++) {
        nvtxDomainNameCategoryA(domain, i + 1, names[i]); /* 0 is none */
        kind_texts[i] = nvtxDomainRegisterStringA(domain, names[i]);
    }
    atomic_store_explicit(&known, domain ? LISTENING : SILENT, memory_order_release);
}

static bool listens(void)
{
    const int answer = atomic_load_explicit(&known, memory_order_acquire);
    if (answer) return answer == LISTENING; /* pthread_once takes some ns to say as much */
    pthread_once(&once, create_domain);
    return domain != NULL;
}

const moet_nvtx_text *moet_nvtx_register(const char *text)
{
    return listens() ? (const moet_nvtx_text *)nvtxDomainRegisterStringA(domain, text) : NULL;
}

void moet_nvtx_begin(moet_nvtx_kind kind, const moet_nvtx_text *text, int64_t payload)
{
    if (!listens()) return;
    const nvtxEventAttributes_t attributes = {
        .version = NVTX_VERSION,
        .size = NVTX_EVENT_ATTRIB_STRUCT_SIZE,
        .category = (uint32_t)kind + 1,
        .payloadType = NVTX_PAYLOAD_TYPE_INT64,
        .payload.llValue = payload,
        .messageType = NVTX_MESSAGE_TYPE_REGISTERED,
        .message.registered = text ? (nvtxStringHandle_t)text : kind_texts[kind],
    };
    nvtxDomainRangePushEx(domain, &attributes);
}

moet_status moet_nvtx_end(moet_status status)
{
    if (listens()) nvtxDomainRangePop(domain);
    return status;
}

#else

const moet_nvtx_text *moet_nvtx_register(const char *text)
{
    (void)text;
    return NULL;
}

void moet_nvtx_begin(moet_nvtx_kind kind, const moet_nvtx_text *text, int64_t payload)
{
    (void)kind;
    (void)text;
    (void)payload;
}

moet_status moet_nvtx_end(moet_status status) { return status; }

#endif

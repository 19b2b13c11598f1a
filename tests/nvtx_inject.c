/* A tool as NVTX loads it by NVTX_INJECTION64_PATH: writes what it is told into the file that MOET_NVTX_LOG names, one
 * line an event, its fields ended by tabs:
 *
 *   category <domain> <number> <name>
 *   push <thread> <depth> <domain> <category> <payload> <message>     depth: 0 is outermost
 *   pop <thread> <depth>                                              depth of the range that ends, -1: of none */
#include <nvtx3/nvToolsExt.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static FILE *out;
static _Thread_local int depth;

/* A handle is the text itself. */
static nvtxDomainHandle_t create_domain(const char *name) { return (nvtxDomainHandle_t)strdup(name); }

static nvtxStringHandle_t register_string(nvtxDomainHandle_t domain, const char *text)
{
    (void)domain;
    return (nvtxStringHandle_t)strdup(text);
}

static void name_category(nvtxDomainHandle_t domain, uint32_t category, const char *name)
{
    fprintf(out, "category\t%s\t%u\t%s\n", (const char *)domain, category, name);
}

static int push(nvtxDomainHandle_t domain, const nvtxEventAttributes_t *event)
{
    const char *message = event->messageType == NVTX_MESSAGE_TYPE_REGISTERED ? (const char *)event->message.registered
                                                                             : "(not registered)";
    long long payload = event->payloadType == NVTX_PAYLOAD_TYPE_INT64 ? (long long)event->payload.llValue : -1;
    fprintf(out, "push\t%ld\t%d\t%s\t%u\t%lld\t%s\n", syscall(SYS_gettid), depth, (const char *)domain, event->category,
            payload, message);
    return depth++;
}

static int pop(nvtxDomainHandle_t domain)
{
    (void)domain;
    depth--;
    fprintf(out, "pop\t%ld\t%d\n", syscall(SYS_gettid), depth);
    return depth;
}

static void end(void)
{
    fprintf(out, "depth\t%d\n", depth);
    fclose(out);
}

__attribute__((visibility("default"))) int InitializeInjectionNvtx2(NvtxGetExportTableFunc_t get_table);

int InitializeInjectionNvtx2(NvtxGetExportTableFunc_t get_table)
{
    const NvtxExportTableCallbacks *callbacks = get_table(NVTX_ETID_CALLBACKS);
    NvtxFunctionTable table = NULL;
    unsigned int size = 0;
    const char *path = getenv("MOET_NVTX_LOG");
    if (!callbacks || !path || !callbacks->GetModuleFunctionTable(NVTX_CB_MODULE_CORE2, &table, &size) ||
        size <= NVTX_CBID_CORE2_DomainCreateA)
        return 0;
    out = fopen(path, "w");
    if (!out) return 0;
    atexit(end);
    *table[NVTX_CBID_CORE2_DomainCreateA] = (NvtxFunctionPointer)create_domain;
    *table[NVTX_CBID_CORE2_DomainRegisterStringA] = (NvtxFunctionPointer)register_string;
    *table[NVTX_CBID_CORE2_DomainNameCategoryA] = (NvtxFunctionPointer)name_category;
    *table[NVTX_CBID_CORE2_DomainRangePushEx] = (NvtxFunctionPointer)push;
    *table[NVTX_CBID_CORE2_DomainRangePop] = (NvtxFunctionPointer)pop;
    return 1;
}

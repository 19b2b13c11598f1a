/* ep_emulated: the kernels of ep.cu as C++, for ep_emulated.c. */
#include "emulated.h"

namespace kernels {
#include "ep_emulated.inc" /* of cmake/emulate.cmake */
} // namespace kernels

#define KERNEL_ROW(name, threads, blocks)                                                                              \
    {#name, threads, blocks, [](void **args) { emulated_call(kernels::name, args); }},
static const emulated_kernel table[] = {MOET_KERNELS(KERNEL_ROW)};

extern "C" {
extern const size_t ep_emulated_pass_bytes = sizeof(kernels::moet_ep_pass);

const void *ep_emulated_find(const char *name)
{
    for (const emulated_kernel &kernel : table) {
        if (strcmp(kernel.name, name) == 0) return &kernel;
    }
    return nullptr;
}

void ep_emulated_launch(const void *kernel, unsigned blocks, unsigned threads, int sms, bool is_early, void **args)
{
    emulated_launch(static_cast<const emulated_kernel *>(kernel), blocks, threads, sms, is_early, args);
}
}

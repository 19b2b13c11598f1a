#include "hold_sms.h"

#ifdef MOET_CUDA
#include <time.h>

#include "../src/cuda_api.h"
#include "../src/module.h"

static const char text[] = "extern \"C\" __global__ void hold(long long time_ns)\n"
                           "{\n"
                           "    long long begin, now;\n"
                           "    asm volatile(\"mov.u64 %0, %%globaltimer;\" : \"=l\"(begin));\n"
                           "    do {\n"
                           "        __nanosleep(1000);\n"
                           "        asm volatile(\"mov.u64 %0, %%globaltimer;\" : \"=l\"(now));\n"
                           "    } while (now - begin < time_ns);\n"
                           "}\n";

static void *held_module; /* stays: it runs beside what comes */
static void *held_function;

void hold_sms(moet_device *device, int32_t sms, int64_t time_ns, void *stream)
{
    static const char *const names[] = {"hold"};
    const struct moet_cuda_api *cuda;
    const int smem_bytes = (int)device->info.smem_per_block_optin_bytes;
    char arch[16];
    moet_source source = {.name = "hold.cu", .text = text, .arch = arch};
    moet_cubin cubin = {0};
    void *args[] = {&time_ns};
    snprintf(arch, sizeof arch, "sm_%d%d", device->info.cc_major, device->info.cc_minor);
    TEST_OK(moet_cuda_api_get(&cuda));
    if (!held_module) {
        TEST_OK(moet_module_compile(&source, &cubin, NULL));
        TEST_OK(moet_module_load(&cubin, names, 1, &held_module, &held_function));
        moet_cubin_release(&cubin);
    }
    assert_int_equal(cuda->cuFuncSetAttribute((CUfunction)held_function,
                                              CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, smem_bytes),
                     CUDA_SUCCESS);
    assert_int_equal(cuda->cuLaunchKernel((CUfunction)held_function, (unsigned)sms, 1, 1, 32, 1, 1,
                                          (unsigned)smem_bytes, (CUstream)stream, args, NULL),
                     CUDA_SUCCESS);
    nanosleep(&(struct timespec){.tv_nsec = 50000000}, NULL); /* much longer than a launch takes */
}
#else
void hold_sms(moet_device *device, int32_t sms, int64_t time_ns, void *stream)
{
    (void)device, (void)sms, (void)time_ns, (void)stream;
    test_fail("SMs are held in builds with CUDA only");
}
#endif

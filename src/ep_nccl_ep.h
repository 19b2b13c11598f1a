/* ep_nccl_ep: what the transport nccl_ep keeps of NCCL EP (docs/nccl_ep.md): its functions, its parameters, and the
 * group of ranks. ep_nccl_ep_group.c makes it, ep_nccl_ep.c moves rows by it. */
#ifndef MOET_EP_NCCL_EP_H
#define MOET_EP_NCCL_EP_H

#include "ep.h"
#include "nccl_api.h"

/* NCCL, blocking: every call that needs other ranks waits for them without a clock. */
typedef struct moet_nccl_api {
    int (*get_version)(int *version);
    const char *(*error_string)(int result);
    int (*get_unique_id)(nccl_id *id);
    int (*init_rank)(void **comm, int ranks, nccl_id id, int rank, nccl_config *config);
    int (*get_async_error)(void *comm, int *result);
    int (*query_properties)(void *comm, nccl_properties *properties);
    int (*destroy)(void *comm);
    int (*memory_alloc)(void **memory, size_t bytes);
    int (*memory_free)(void *memory);
    int (*window_register)(void *comm, void *memory, size_t bytes, void **window, int flags);
    int (*window_deregister)(void *comm, void *window);
} moet_nccl_api;

/* NCCL EP. */
typedef struct moet_nccl_ep_api {
    int (*get_version)(int *version);
    int (*group_create)(void **group, void *comm, const nccl_ep_config *config);
    int (*group_destroy)(void *group);
    int (*handle_create)(void **handle, void *group, int layout, const nccl_ep_handle_config *config, int choices,
                         const nccl_ep_tensor *memory);
    int (*handle_update)(void *handle, const nccl_ep_tensor *ids, const nccl_ep_layout_info *info, void *stream);
    int (*handle_destroy)(void *handle);
    int (*dispatch)(void *handle, const nccl_ep_dispatch_in *in, const nccl_ep_dispatch_out *out,
                    const nccl_ep_layout_info *info, const void *config, void *stream);
    int (*combine)(void *handle, const nccl_ep_combine_in *in, const nccl_ep_combine_out *out, const void *config,
                   void *stream);
    int (*takes_host_memory)(void); /* NVIDIA's has none: its devices are GPUs */
} moet_nccl_ep_api;

/* "nccl_ep:name=value:name=value" of the options' transport; the table of names is in ep_nccl_ep_group.c. */
typedef struct moet_nccl_ep_parameters {
    int32_t is_major; /* layout expert_major, else flat */
    int32_t align;    /* expert_major: rows of an expert begin at multiples */
    int32_t sms;      /* 0: the library's choice */
    int32_t channels; /* 0: the library's choice */
    int32_t windows;  /* rows straight into the other ranks' windows */
} moet_nccl_ep_parameters;

typedef struct moet_nccl_ep {
    moet_nccl_api nccl;
    moet_nccl_ep_api library;
    moet_nccl_ep_parameters parameters;
    moet_ep *ep;
    nccl_id id;
    void *comm, *group;
} moet_nccl_ep;

/* INVALID names the parameter. */
moet_status moet_nccl_ep_parameters_of(const moet_ep_options *options, moet_nccl_ep_parameters *parameters);

/* Rows that a rank may get in a chunk: a token's, or with expert_major each of its experts', and padding. */
int64_t moet_nccl_ep_slots(const moet_ep *ep, const moet_nccl_ep_parameters *parameters);

/* The group of a layer, whose `data` the communicator is to be. */
moet_status moet_ep_comm_create_nccl_ep(moet_ep *ep, moet_ep_comm **comm);

/* Runs a step that waits for other ranks, on a thread with the device current. TIMEOUT after timeout_ms, LOST where a
 * rank ends: the thread, and with it the device and all that the step uses, is then left alone. */
typedef moet_status (*moet_nccl_ep_step)(moet_nccl_ep *n, void *arg);
moet_status moet_nccl_ep_in_time(moet_nccl_ep *n, const char *what, moet_nccl_ep_step step, void *arg);

/* DEVICE; a call that failed may have left work on the device that never ends. */
moet_status moet_nccl_ep_fail(const moet_nccl_ep *n, int result, const char *what);

#endif

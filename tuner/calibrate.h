/* calibrate: a device's cost model: from the store, else fitted to trials that are there, else to a few seconds of
 * measuring. */
#ifndef MOET_CALIBRATE_H
#define MOET_CALIBRATE_H

#include "compile_ahead.h"
#include "store.h"
#include "worker.h"

/* Trials of GEMMs from which on, and workloads they must be of, a fit needs no measuring of its own. */
#define MOET_CALIBRATE_TRIALS 40
#define MOET_CALIBRATE_WORKLOADS 6

/* The model is put into the store, whose run has begun. Where nothing can be measured, points is 0 and the rates are
 * guessed. The worker has begun; its workload is gone afterwards. Errors are the store's and the worker's own. */
moet_status moet_calibrate(moet_worker *worker, moet_compile_ahead *ahead, moet_store *store,
                           const moet_ceilings *ceilings, moet_store_cost *cost);

#endif

// The C interface of libmoebius_cuda.so, the only thing that the program and the library share.
#pragma once

#include <stdint.h>

#define kMoebiusCudaMaxDevices 16
#define kMoebiusCudaErrorBytes 256

struct MoebiusCudaDevice {
  char name[256];
  int64_t memory_bytes;
  int major, minor;
};

extern "C" {
// Fills devices [0, limit) and returns how many there are, or -1 with a text in error
// [kMoebiusCudaErrorBytes].
__attribute__((visibility("default"))) int moebius_cuda_devices(struct MoebiusCudaDevice* devices, int limit,
                                                                char* error);
}

/*
 * A buffer goes to the device's memory at 0x1000 and comes back into another. The device is a file or a block device
 * where one is named, else a simulated one.
 *
 *   gcc -Iext/dma_capi/include examples/transfer.c -Llib/dma -ldma -Wl,-rpath,$PWD/lib/dma -o /tmp/transfer
 *   /tmp/transfer [FILE]
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "dma.h"

enum { SIZE = 4096, PLACE = 0x1000 };

/* Begins a transfer and waits a second for it. */
static void transfer(const char *what, uint64_t source, uint64_t destination, uint32_t flags)
{
    DmaDescriptor descriptor = { source, destination, SIZE, flags };
    int status = dma_submit_transfer(&descriptor);

    if (status > 0)
        status = dma_wait_completion_timeout(status, 1000000000);
    printf("%s: %s\n", what, dma_status_name(status));
    if (status != DMA_COMPLETE) {
        fprintf(stderr, "%s\n", dma_last_error());
        exit(1);
    }
}

int main(int argc, char **argv)
{
    unsigned char *out = dma_alloc_buffer(SIZE), *back = dma_alloc_buffer(SIZE);
    uint64_t size;
    int same;

    if (!out || !back || (argc > 1 && dma_open_device(argv[1]) != 0) || dma_device_size(&size) != 0) {
        fprintf(stderr, "%s\n", dma_last_error());
        return 1;
    }
    printf("a device of %llu bytes\n", (unsigned long long)size);
    for (int i = 0; i < SIZE; i++)
        out[i] = (unsigned char)(i * 7 % 251);
    transfer("to the device", (uintptr_t)out, PLACE, DMA_TO_DEVICE);
    transfer("from the device", PLACE, (uintptr_t)back, DMA_FROM_DEVICE);
    same = memcmp(out, back, SIZE) == 0;
    puts(same ? "the same bytes" : "other bytes");
    dma_free_buffer(out);
    dma_free_buffer(back);
    return !same;
}

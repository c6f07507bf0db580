/*
 * dma.h - transfers between memory and a device, from C.
 *
 * Link with -ldma. Memory for transfers comes from dma_alloc_buffer; a device reads and writes no other. The device is a
 * simulated one with 64 MiB of memory, made when it is first needed, until dma_open_device chooses another.
 *
 * Every function may be called from any thread. A pointer or an id that is not one of this library's is answered by an error
 * code; the text of dma_last_error says what was asked, what the limit is and what to do about it. The child of a fork(2) has
 * none of its parent's buffers, transfers and devices: what it inherited is answered by an error code too, and transfers are
 * refused until it has called dma_open_device.
 */
#ifndef DMA_H
#define DMA_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* One transfer. Addresses of memory are pointers into a buffer, at any offset. */
typedef struct DmaDescriptor {
    uint64_t source_addr; /* where the bytes come from */
    uint64_t dest_addr;   /* where they go */
    uint32_t byte_count;
    uint32_t flags;       /* enum dma_flags */
} DmaDescriptor;

enum dma_flags {
    DMA_TO_DEVICE = 0x01,    /* the source is memory, the destination an address of the device */
    DMA_FROM_DEVICE = 0x02,  /* the source is an address of the device, the destination memory */
    DMA_WITHIN_DEVICE = 0x03 /* both are addresses of the device */
};

/* How a transfer ended. Of what the operating system refused, it is DMA_STATUS_OS_ERROR plus errno. */
enum dma_status {
    DMA_PENDING = 0,               /* it has not ended */
    DMA_COMPLETE = 1,              /* all was done */
    DMA_ABORTED = 2,               /* it was cancelled */
    DMA_TIMED_OUT = 3,             /* a wait gave it up */
    DMA_NOT_ATTEMPTED = 4,         /* what it had to wait for failed */
    DMA_BAD_SOURCE = 5,            /* the device has nothing to read there */
    DMA_BAD_DESTINATION = 6,       /* the device has nothing to write there */
    DMA_BAD_LENGTH = 7,            /* a length that the device does not take */
    DMA_IOMMU_FAULT = 8,           /* the IOMMU let nothing through */
    DMA_BUS_READ_ERROR = 9,        /* the bus did not bring the bytes */
    DMA_BUS_WRITE_ERROR = 10,      /* the bus did not take the bytes */
    DMA_DATA_POISON = 11,          /* the bytes that came are marked as spoiled */
    DMA_DESCRIPTOR_ERROR = 12,     /* the descriptor could not be fetched, or makes no sense */
    DMA_LINK_DOWN = 13,            /* the device is not reached any more */
    DMA_RING_FULL = 14,            /* there was no room for it in the ring */
    DMA_MEDIUM_ERROR = 15,         /* the device cannot read or write its medium there */
    DMA_DEVICE_ERROR = 16,         /* the device failed, or ended it for a reason of its own */
    DMA_STATUS_OS_ERROR = 0x10000
};

/* Why a call was refused. */
enum dma_error {
    DMA_ERROR_ARGUMENT = -1,    /* NULL, unknown flags, or outside the device */
    DMA_ERROR_MEMORY = -2,      /* an address that is in no buffer: freed, foreign, or past the end of one */
    DMA_ERROR_ALIGNMENT = -3,   /* a pointer or a device address that is not aligned as it has to be */
    DMA_ERROR_ID = -4,          /* no transfer has this id */
    DMA_ERROR_BUSY = -5,        /* in use by another; it can be had later */
    DMA_ERROR_CLOSED = -6,      /* the device was closed, or is the parent process's */
    DMA_ERROR_RING_FULL = -7,   /* no room before a transfer has ended: wait for one */
    DMA_ERROR_TIMED_OUT = -8,   /* the wait was over before the transfer */
    DMA_ERROR_UNSUPPORTED = -9, /* the device cannot do this */
    DMA_ERROR_OS = -10,         /* the operating system refused */
    DMA_ERROR_INTERNAL = -11    /* a mistake in this library */
};

/*
 * Zeroed memory, at the start of a page. NULL where there is none.
 */
void *dma_alloc_buffer(size_t size);

/*
 * Takes what dma_alloc_buffer returned; what transfers still use stays theirs until they are over. NULL is no error. Another
 * pointer is left alone, and dma_last_error tells.
 */
void dma_free_buffer(void *buffer);

/*
 * Begins a transfer; transfers of one device are carried out in this order. Returns its id, which is positive, or an error.
 *
 * An id is good for any number of calls. What ended is remembered until 65536 younger transfers were begun.
 */
int dma_submit_transfer(const DmaDescriptor *descriptor);

/*
 * Waits until a transfer is over. Whether it went well, dma_transfer_status tells.
 */
void dma_wait_completion(int id);

/*
 * Waits no longer than `nanoseconds`, then gives the transfer up; a negative number waits for ever. Returns how it ended, or
 * an error, such as DMA_ERROR_TIMED_OUT.
 */
int dma_wait_completion_timeout(int id, int64_t nanoseconds);

/*
 * How a transfer ended, DMA_PENDING if it has not, or an error.
 */
int dma_transfer_status(int id);

/*
 * The name of a status or an error: "complete", "iommu_fault", "timed_out". Never NULL; it is not to be freed.
 */
const char *dma_status_name(int code);

/*
 * What went wrong in the last call of this thread that failed, or waited for a transfer that did; "" if none. It is valid
 * until another one fails.
 */
const char *dma_last_error(void);

/*
 * Chooses the device of all later transfers of the process: a file, a device, or what Ruby's DMA::Sim.attach put at
 * `path`. A device address is the offset in a file. NULL goes back to the simulated device, whose memory is as it was left.
 * Transfers under way go on, and their ids stay good. Returns 0 or an error, and then nothing has changed.
 */
int dma_open_device(const char *path);

/*
 * Stores how many bytes the device has. Returns 0 or an error: a character device does not say.
 */
int dma_device_size(uint64_t *size);

#ifdef __cplusplus
}
#endif

#endif

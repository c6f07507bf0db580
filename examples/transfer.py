"""A buffer goes to the device's memory at 0x1000 and comes back into another, through ctypes. The device is a file or a
block device where one is named, else a simulated one.

  python3 examples/transfer.py [FILE]
"""

import ctypes
import os
import sys

SIZE = 4096
PLACE = 0x1000
TO_DEVICE, FROM_DEVICE = 1, 2
COMPLETE = 1


class DmaDescriptor(ctypes.Structure):
    _fields_ = [
        ("source_addr", ctypes.c_uint64),
        ("dest_addr", ctypes.c_uint64),
        ("byte_count", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
    ]


dma = ctypes.CDLL(os.path.join(os.path.dirname(os.path.abspath(__file__)), "../lib/dma/libdma.so"))
dma.dma_alloc_buffer.argtypes = [ctypes.c_size_t]
dma.dma_alloc_buffer.restype = ctypes.c_void_p
dma.dma_free_buffer.argtypes = [ctypes.c_void_p]
dma.dma_free_buffer.restype = None
dma.dma_submit_transfer.argtypes = [ctypes.POINTER(DmaDescriptor)]
dma.dma_wait_completion_timeout.argtypes = [ctypes.c_int, ctypes.c_int64]
dma.dma_status_name.restype = ctypes.c_char_p
dma.dma_last_error.restype = ctypes.c_char_p
dma.dma_open_device.argtypes = [ctypes.c_char_p]


def check(good):
    if not good:
        sys.exit(dma.dma_last_error().decode())


def transfer(what, source, destination, flags):
    """Begins a transfer and waits a second for it."""
    status = dma.dma_submit_transfer(DmaDescriptor(source, destination, SIZE, flags))
    if status > 0:
        status = dma.dma_wait_completion_timeout(status, 1_000_000_000)
    print(f"{what}: {dma.dma_status_name(status).decode()}")
    check(status == COMPLETE)


if len(sys.argv) > 1:
    check(dma.dma_open_device(os.fsencode(sys.argv[1])) == 0)
out, back = dma.dma_alloc_buffer(SIZE), dma.dma_alloc_buffer(SIZE)
check(out and back)
ctypes.memmove(out, os.urandom(SIZE), SIZE)
transfer("to the device", out, PLACE, TO_DEVICE)
transfer("from the device", PLACE, back, FROM_DEVICE)
same = ctypes.string_at(out, SIZE) == ctypes.string_at(back, SIZE)
print("the same bytes" if same else "other bytes")
dma.dma_free_buffer(out)
dma.dma_free_buffer(back)
sys.exit(not same)

// `memcpy`, `memmove` and `memset` for everything the guest is linked from. WebAssembly has instructions for them, each of which
// is a call of the host that nothing interrupts: too much for a few bytes, and too long for many. Here a few bytes are copied in
// place, and many in chunks, between which a step can be stopped.

#include <stddef.h>
#include <stdint.h>

#define CHUNK ((size_t)128 << 10)
// Copied without a call of the host.
#define SHORT 64

// One instruction each.
#define COPY(to, from, length) __builtin_memmove(to, from, length)
#define FILL(to, byte, length) __builtin_memset(to, byte, length)

static inline uint64_t load8(const char *from) {
    uint64_t bytes;
    __builtin_memcpy(&bytes, from, 8);
    return bytes;
}

static inline void store8(char *to, uint64_t bytes) { __builtin_memcpy(to, &bytes, 8); }

static inline uint32_t load4(const char *from) {
    uint32_t bytes;
    __builtin_memcpy(&bytes, from, 4);
    return bytes;
}

static inline void store4(char *to, uint32_t bytes) { __builtin_memcpy(to, &bytes, 4); }

// Up to `SHORT` bytes: all are read before the first is written, so the ranges may overlap.
static inline void copy_short(char *to, const char *from, size_t length) {
    const char *from_end = from + length;
    char *to_end = to + length;
    if (length > 32) {
        uint64_t a = load8(from), b = load8(from + 8), c = load8(from + 16), d = load8(from + 24);
        uint64_t e = load8(from_end - 32), f = load8(from_end - 24), g = load8(from_end - 16), h = load8(from_end - 8);
        store8(to, a), store8(to + 8, b), store8(to + 16, c), store8(to + 24, d);
        store8(to_end - 32, e), store8(to_end - 24, f), store8(to_end - 16, g), store8(to_end - 8, h);
    } else if (length > 16) {
        uint64_t a = load8(from), b = load8(from + 8), c = load8(from_end - 16), d = load8(from_end - 8);
        store8(to, a), store8(to + 8, b), store8(to_end - 16, c), store8(to_end - 8, d);
    } else if (length >= 8) {
        uint64_t a = load8(from), b = load8(from_end - 8);
        store8(to, a), store8(to_end - 8, b);
    } else if (length >= 4) {
        uint32_t a = load4(from), b = load4(from_end - 4);
        store4(to, a), store4(to_end - 4, b);
    } else if (length) {
        char a = from[0], b = from[length / 2], c = from_end[-1];
        to[0] = a, to[length / 2] = b, to_end[-1] = c;
    }
}

void *memmove(void *to, const void *from, size_t length) {
    if (length <= SHORT) {
        copy_short(to, from, length);
    } else if (length <= CHUNK) {
        COPY(to, from, length);
    } else if ((uintptr_t)to - (uintptr_t)from >= length) { // not into what is still to be read
        for (size_t done = 0; done < length; done += CHUNK)
            COPY((char *)to + done, (const char *)from + done, length - done < CHUNK ? length - done : CHUNK);
    } else {
        for (size_t left = length; left;) {
            size_t chunk = left < CHUNK ? left : CHUNK;
            left -= chunk;
            COPY((char *)to + left, (const char *)from + left, chunk);
        }
    }
    return to;
}

void *memcpy(void *restrict to, const void *restrict from, size_t length) { return memmove(to, from, length); }

void *memset(void *to, int byte, size_t length) {
    char *at = to, *end = at + length;
    if (length <= SHORT) {
        uint64_t bytes = (uint8_t)byte * 0x0101010101010101u;
        if (length >= 8) {
            for (; at < end - 8; at += 8)
                store8(at, bytes);
            store8(end - 8, bytes);
        } else {
            while (at < end)
                *at++ = byte;
        }
        return to;
    }
    for (; at < end; at += CHUNK)
        FILL(at, byte, (size_t)(end - at) < CHUNK ? (size_t)(end - at) : CHUNK);
    return to;
}

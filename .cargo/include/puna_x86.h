// Included before every C++ file of llama.cpp on x86-64 Linux.
//
// ggml's loops over 16-bit floats take 128 at a time where the compiler has AVX512-FP16, and what is
// left over one by one. Heads of 64 are nothing but left over: flash attention then runs at half its
// speed or less. Told that the compiler has none, ggml takes 64 at a time and adds them up in 32 bits.
#undef __AVX512FP16__

// gcc before 13.2.1 declares that _tile_loadconfig reads 8 bytes of the 64 that the processor
// reads, so its optimiser may drop the stores of the rest, and an AMX matrix product then traps.
// Here the whole block is the operand. Harmless for a fixed gcc; clang is left alone.
#if defined(__AMX_TILE__) && defined(__GNUC__) && !defined(__clang__)
#include <immintrin.h>
struct puna_tile_config {
    unsigned char bytes[64];
};
static inline __attribute__((always_inline)) void puna_tile_loadconfig(const void * config) {
    __asm__ volatile("ldtilecfg\t%0" ::"m"(*(const struct puna_tile_config *) config));
}
#define _tile_loadconfig puna_tile_loadconfig
#endif

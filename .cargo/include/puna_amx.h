// Included before every C++ file of llama.cpp on x86-64 Linux.
//
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

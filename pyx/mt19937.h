/*
 * mt19937.h - what a numpy.random.RandomState draws when it shuffles, a block of words at a time.  Included by _random.pyx alone.
 *
 * NumPy's legacy shuffle swaps element i = n - 1, n - 2, ..., 1 with element j, uniform in [0, i].  For j it cuts a word of 32 bits
 * down to as many bits as i has, and takes the next word as long as that is more than i.  A word is refused with a probability of
 * up to a half, which no branch predictor guesses: that is where NumPy's time goes.  Here the words of a block are drawn, then
 * sorted out without a branch, and then the swaps are made.
 *
 * The generator: M. Matsumoto and T. Nishimura, "Mersenne Twister: a 623-dimensionally equidistributed uniform pseudorandom number
 * generator", ACM Transactions on Modeling and Computer Simulation 8 (1998) 3-30.  Its loops are such that compilers vectorize them.
 */
#ifndef CYMLP_MT19937_H
#define CYMLP_MT19937_H

#include <stddef.h>
#include <stdint.h>

enum {
    CYMLP_MT_WORDS = 624,       /* N of the paper: words of state, and in a block */
    CYMLP_MT_DISTANCE = 397     /* M: how far ahead is the word that a new one is made with */
};

/* As NumPy's MT19937 keeps it, which _random.pyx makes sure of. */
typedef struct {
    uint32_t key[CYMLP_MT_WORDS];
    int pos;                    /* words of this block that were drawn; once it is CYMLP_MT_WORDS, the next word begins a new block */
} cymlp_mt19937;

static inline uint32_t cymlp_mt_twisted(uint32_t first, uint32_t second, uint32_t ahead)
{
    uint32_t y = (first & 0x80000000u) | (second & 0x7fffffffu);
    return ahead ^ (y >> 1) ^ (-(y & 1) & 0x9908b0dfu);
}

/* The next block.  In two loops, as the word ahead is an old one at first, and then one that the first loop has made. */
static void cymlp_mt_twist(uint32_t *key)
{
    const int last = CYMLP_MT_WORDS - 1, turn = CYMLP_MT_WORDS - CYMLP_MT_DISTANCE;
    for (int i = 0; i < turn; i++)
        key[i] = cymlp_mt_twisted(key[i], key[i + 1], key[i + CYMLP_MT_DISTANCE]);
    for (int i = turn; i < last; i++)
        key[i] = cymlp_mt_twisted(key[i], key[i + 1], key[i - turn]);
    key[last] = cymlp_mt_twisted(key[last], key[0], key[last - turn]);
}

/* The words that are drawn, of those that are kept. */
static void cymlp_mt_temper(int count, const uint32_t *restrict key, uint32_t *restrict words)
{
    for (int i = 0; i < count; i++) {
        uint32_t y = key[i];
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c5680u;
        y ^= (y << 15) & 0xefc60000u;
        words[i] = y ^ (y >> 18);
    }
}

/*
 * The partners of elements i, i - 1, ..., and not of element 0, as far as the block goes, and beyond it by none: returns how many.
 *
 * The next word is written over one that was refused, so that what a word changes is i alone: `i -= word <= i`, in two
 * instructions (compare, add with carry), each of which waits for the one before, two cycles a word.  There is time to ask for the
 * partner's cache line: after an epoch of training, or among many, it is far away.  That of a refused word may be behind the last
 * element, where asking does no harm.
 */
static int cymlp_mt_partners(cymlp_mt19937 *state, uint32_t i, uint32_t *partners, const int64_t *order)
{
    uint32_t words[CYMLP_MT_WORDS];
    const uint32_t first = i, *word = words, *end;
    if (state->pos == CYMLP_MT_WORDS) {
        cymlp_mt_twist(state->key);
        state->pos = 0;
    }
    end = words + (CYMLP_MT_WORDS - state->pos);
    cymlp_mt_temper((int)(end - words), state->key + state->pos, words);
    while (i && word < end) {
        const uint32_t mask = 0xffffffffu >> __builtin_clz(i), least = mask >> 1; /* one mask for all i with least < i <= mask */
        while (i > least && word < end) {
            const uint32_t partner = *word++ & mask;
            __builtin_prefetch((const void *)((uintptr_t)order + sizeof *order * partner), 1);
            partners[first - i] = partner;
            i += (i < partner) - 1u;
        }
    }
    state->pos += (int)(word - words);
    return (int)(first - i);
}

/* Shuffles n elements, n at most 2^32. */
static void cymlp_mt_shuffle(cymlp_mt19937 *state, size_t n, int64_t *order)
{
    uint32_t partners[CYMLP_MT_WORDS];
    size_t i = n ? n - 1 : 0;
    while (i) {
        const int count = cymlp_mt_partners(state, (uint32_t)i, partners, order);
        for (int k = 0; k < count; k++) {
            const int64_t element = order[i - k];
            order[i - k] = order[partners[k]];
            order[partners[k]] = element;
        }
        i -= count;
    }
}

#endif

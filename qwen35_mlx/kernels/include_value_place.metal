// Included by other bodies: where value n of a chunk lies. Its bits are `word` shifted down by `down`,
// from `shift` on; those beyond 32 bits from `offset` on are the lowest of the next word.

const int word = n * BITS / 32;
const int offset = n * BITS % 32;
// Whole half words are shifted down. In a stream, only what ends above a float's 23 bits is.
const int down = STREAM ? (offset + BITS <= 23 ? 0 : offset) : offset / 16 * 16;
const int shift = offset - down;

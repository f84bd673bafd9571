// Included by other bodies: chunk `index` of the rows `source`, as words, goes to words[r].

if (STREAM) {
  #pragma unroll
  for (int i = 0; i < CHUNK_WORDS; ++i) words[r][i] = source[index * CHUNK_WORDS + i];
} else {
  // Aligned, since allocations are and a row is a multiple of 16 bytes.
  const uint4 four = reinterpret_cast<const device uint4*>(source)[index];
  words[r][0] = four.x;
  words[r][1] = four.y;
  words[r][2] = four.z;
  words[r][CHUNK_WORDS - 1] = four.w;
}

// Whose sums are the same, to the bit.
#pragma once

namespace engram {

// Prints how tensor cores add, and which of cuBLASLt's algorithms add as our
// products do, for what shapes. Ends with 0, or 1 if our own products are not
// chains of the tensor cores' instruction.
int TellBits();

}  // namespace engram

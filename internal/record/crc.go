package record

// CRC-32C is linear over GF(2): appending n bytes to a message multiplies its
// remainder by x^(8n) modulo the polynomial and adds the remainder of those
// bytes. So the checksum of a whole follows from those of its parts, which is
// what zlib's crc32_combine does for CRC-32; this is the same algebra with
// Castagnoli's polynomial, bit-reflected as the table is.

const polynomial = 0x82f63b78 // Castagnoli, reflected

// powers[k] is x^(2^k) modulo the polynomial.
var powers = func() (p [40]uint32) {
	p[0] = 1 << 30 // x^1
	for k := 1; k < len(p); k++ {
		p[k] = mulMod(p[k-1], p[k-1])
	}
	return p
}()

// mulMod multiplies two polynomials modulo the CRC's. A set top bit is x^0.
func mulMod(a, b uint32) uint32 {
	var product uint32
	for m := uint32(1) << 31; m != 0; m >>= 1 {
		if a&m != 0 {
			product ^= b
		}
		carry := b & 1
		b >>= 1
		if carry != 0 {
			b ^= polynomial
		}
	}
	return product
}

// shifts[k] multiplies by x^(8*2^k): it has the product for each value of each byte
// of the other factor, and multiplication is linear. For the lengths of batches
// that is twenty times as fast as mulMod.
var shifts = func() (t [24][4][256]uint32) {
	for k := range t {
		for bit := range 32 {
			product := mulMod(powers[k+3], 1<<bit)
			table, low := &t[k][bit/8], 1<<(bit%8)
			for v := range low {
				table[low+v] = table[v] ^ product
			}
		}
	}
	return t
}()

// shiftCRC is what crc contributes to the checksum of a message in which n
// bytes (n < 2^36) follow those that crc covers.
func shiftCRC(crc uint32, n int64) uint32 {
	if crc == 0 {
		return 0
	}
	for k := 0; n != 0; k, n = k+1, n>>1 {
		switch {
		case n&1 == 0:
		case k < len(shifts):
			t := &shifts[k]
			crc = t[0][crc&0xff] ^ t[1][crc>>8&0xff] ^ t[2][crc>>16&0xff] ^ t[3][crc>>24]
		default:
			crc = mulMod(powers[k+3], crc) // 8n bits: x^(2^3) is one byte
		}
	}
	return crc
}

// CombineCRC is the CRC-32C of two byte runs, one after the other, from the
// checksum of each and the length of the second.
func CombineCRC(first, second uint32, secondLen int64) uint32 {
	return shiftCRC(first, secondLen) ^ second
}

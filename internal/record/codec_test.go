package record

import "testing"

// TestSmallBatchesOfLZ4CostNoLargeBlocks looks at the frame's descriptor: whoever
// decompresses it sets aside a block of the size that it declares.
func TestSmallBatchesOfLZ4CostNoLargeBlocks(t *testing.T) {
	got, err := Compress(LZ4, []byte("one record"))
	if err != nil {
		t.Fatal(err)
	}
	const of64KiB = 4 // of the LZ4 frame format's block sizes
	if size := got[5] >> 4 & 7; size != of64KiB {
		t.Errorf("block size %d declared, want %d", size, of64KiB)
	}
}

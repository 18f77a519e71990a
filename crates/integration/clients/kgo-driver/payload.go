package main

import (
	"encoding/binary"
	"hash/crc32"
)

// A payload is: magic "OTLA", CRC-32C of all that follows, producer (4 bytes), partition (4), sequence (8), filler.
// Big endian. The filler follows from the sequence, so equal payloads are equal values.
const payloadHeader = 24

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

type value struct {
	producer  uint32
	partition int32
	sequence  uint64
}

func encode(v value, size int) []byte {
	b := make([]byte, max(size, payloadHeader))
	copy(b, "OTLA")
	binary.BigEndian.PutUint32(b[8:], v.producer)
	binary.BigEndian.PutUint32(b[12:], uint32(v.partition))
	binary.BigEndian.PutUint64(b[16:], v.sequence)
	state := v.sequence*0x9E3779B97F4A7C15 + uint64(v.producer)
	for i := payloadHeader; i < len(b); i++ {
		state = state*6364136223846793005 + 1442695040888963407
		b[i] = byte(state >> 56)
	}
	binary.BigEndian.PutUint32(b[4:], crc32.Checksum(b[8:], castagnoli))
	return b
}

// decode says false for a payload that is not what encode made.
func decode(b []byte) (value, bool) {
	if len(b) < payloadHeader || string(b[:4]) != "OTLA" || binary.BigEndian.Uint32(b[4:]) != crc32.Checksum(b[8:], castagnoli) {
		return value{}, false
	}
	return value{
		producer:  binary.BigEndian.Uint32(b[8:]),
		partition: int32(binary.BigEndian.Uint32(b[12:])),
		sequence:  binary.BigEndian.Uint64(b[16:]),
	}, true
}

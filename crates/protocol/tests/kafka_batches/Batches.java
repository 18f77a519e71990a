import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.*;
import java.util.*;
import org.apache.kafka.common.compress.Compression;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.header.internals.RecordHeader;
import org.apache.kafka.common.record.TimestampType;
import org.apache.kafka.common.record.internal.*;

/**
 * Writes the batches beside this file with Apache Kafka's own classes, or reads batches that Ottla wrote:
 *
 *   java -cp 'LIBS/*' Batches.java write DIR
 *   OTTLA_WRITE_BATCHES=DIR cargo test -p ottla-protocol write_batches_for_kafka -- --ignored
 *   java -cp 'LIBS/*' Batches.java read DIR
 *
 * LIBS holds kafka-clients 4.3.1 and what it depends on.
 */
public class Batches {
    private record Entry(long timestamp, byte[] key, byte[] value, Header[] headers) {}

    /** The record of index i, the same as in `src/batch/tests.rs`. */
    static Entry entry(int i) {
        byte[] key = i % 5 == 0 ? null : ("key-" + i).getBytes(StandardCharsets.UTF_8);
        byte[] value = ("value-" + i + "-").repeat(i % 11).getBytes(StandardCharsets.UTF_8);
        if (i % 7 == 3) value = null;
        if (i == 50) {
            value = new byte[150_000];
            for (int j = 0; j < value.length; j++) value[j] = (byte) (j % 251);
        }
        Header[] headers = new Header[i % 4];
        for (int j = 0; j < headers.length; j++)
            headers[j] = new RecordHeader("h" + j, j == 1 ? null : ("v" + i + j).getBytes(StandardCharsets.UTF_8));
        return new Entry(1_700_000_000_000L + i * 37 % 1000, key, value, headers);
    }

    static Compression codec(String name) {
        return Compression.of(name).build();
    }

    static byte[] batch(String codec, int count) {
        var buffer = ByteBuffer.allocate(1 << 20);
        var builder = new MemoryRecordsBuilder(buffer, (byte) 2, codec(codec), TimestampType.CREATE_TIME, 0L, -1L, 4711L, (short) 3,
            42, false, false, -1, buffer.capacity());
        for (int i = 0; i < count; i++) {
            var entry = entry(i);
            builder.append(entry.timestamp, entry.key, entry.value, entry.headers);
        }
        var out = builder.build().buffer();
        var bytes = new byte[out.remaining()];
        out.get(bytes);
        return bytes;
    }

    static void check(Path file) throws Exception {
        int i = 0;
        for (var batch : MemoryRecords.readableRecords(ByteBuffer.wrap(Files.readAllBytes(file))).batches()) {
            batch.ensureValid();
            for (var record : batch) {
                var entry = entry(i);
                var key = record.hasKey() ? bytes(record.key()) : null;
                var value = record.hasValue() ? bytes(record.value()) : null;
                if (record.offset() != i || record.timestamp() != entry.timestamp || !Arrays.equals(key, entry.key)
                    || !Arrays.equals(value, entry.value) || !Arrays.equals(record.headers(), entry.headers))
                    throw new AssertionError(file + ": record " + i + " differs: " + record);
                i++;
            }
        }
        System.out.println(file + ": " + i + " records as they should be");
    }

    static byte[] bytes(ByteBuffer buffer) {
        var bytes = new byte[buffer.remaining()];
        buffer.get(bytes);
        return bytes;
    }

    public static void main(String[] args) throws Exception {
        var dir = Path.of(args[1]);
        if (args[0].equals("write")) {
            for (var codec : List.of("none", "gzip", "snappy", "lz4", "zstd")) {
                Files.write(dir.resolve("small-" + codec + ".bin"), batch(codec, 3));
                if (!codec.equals("none")) Files.write(dir.resolve("large-" + codec + ".bin"), batch(codec, 400));
            }
        } else {
            try (var files = Files.list(dir)) {
                for (var file : files.filter(path -> path.toString().endsWith(".bin")).sorted().toList()) check(file);
            }
        }
    }
}

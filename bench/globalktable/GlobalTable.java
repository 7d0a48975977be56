import java.nio.charset.StandardCharsets;
import java.util.Properties;
import java.util.concurrent.locks.LockSupport;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.utils.Bytes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StoreQueryParameters;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.QueryableStoreTypes;
import org.apache.kafka.streams.state.ReadOnlyKeyValueStore;

/**
 * A GlobalKTable with RocksDB over one topic, values as they are. Prints "ready" once the table is restored.
 *
 * <p>Arguments: brokers, topic, state directory; with a fourth, a number of events, it then waits for the keys
 * 0, 1, 2, … one after the other, and prints after how many microseconds each was seen: the value begins with
 * the time at which it was sent, in microseconds, and a comma.
 */
class GlobalTable {
    public static void main(String[] args) throws Exception {
        var properties = new Properties();
        properties.put(StreamsConfig.APPLICATION_ID_CONFIG, "bench");
        properties.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, args[0]);
        properties.put(StreamsConfig.STATE_DIR_CONFIG, args[2]);
        var builder = new StreamsBuilder();
        builder.globalTable(
                args[1],
                Materialized.<String, byte[], KeyValueStore<Bytes, byte[]>>as("table")
                        .withKeySerde(Serdes.String())
                        .withValueSerde(Serdes.ByteArray()));
        var streams = new KafkaStreams(builder.build(), properties);
        streams.start();
        while (streams.state() != KafkaStreams.State.RUNNING) {
            Thread.sleep(5);
        }
        ReadOnlyKeyValueStore<String, byte[]> table = streams.store(
                StoreQueryParameters.fromNameAndType("table", QueryableStoreTypes.keyValueStore()));
        System.out.println("ready");
        for (long next = 0; args.length > 3 && next < Long.parseLong(args[3]); next++) {
            byte[] value;
            while ((value = table.get(Long.toString(next))) == null) {
                LockSupport.parkNanos(200_000);
            }
            var instant = java.time.Instant.now();
            var now = instant.getEpochSecond() * 1_000_000 + instant.getNano() / 1000;
            var text = new String(value, StandardCharsets.UTF_8);
            System.out.println(now - Long.parseLong(text.substring(0, text.indexOf(','))));
        }
        // Until the other end of the pipe is closed.
        while (System.in.read() >= 0) {}
        System.exit(0);
    }
}

"""Clients of a RabbitMQ that is updated: they count what they lose.

    rabbitmq_clients.py AMQP_PORT MQTT_PORT HTTP_PORT COUNT DIRECTORY

COUNT pairs of AMQP connections, of which one publishes with confirms and one consumes, COUNT MQTT clients, which
publish with QoS 1 to themselves, and one that asks the management interface, all without a pause worth mentioning.
Writes DIRECTORY/ready once all are connected. When DIRECTORY/stop appears, they stop publishing, wait for
what is under way, and print one JSON object. No client ever connects a second time.

Exit codes: 0 nothing was lost, 1 something was.
"""

import base64
import http.client
import json
import pathlib
import sys
import threading
import time

import paho.mqtt.client as mqtt
import pika

# The longest that what is under way may take at the end.
DRAIN_SECONDS = 30


class Counts:
    """What all clients of one kind did, counted under a lock."""

    def __init__(self):
        self.lock = threading.Lock()
        self.connections = 0
        self.lost = []
        self.sent = 0
        self.confirmed = set()
        self.received = set()

    def connect(self):
        with self.lock:
            self.connections += 1

    def lose(self, who, why):
        with self.lock:
            self.lost.append(f"{time.strftime('%H:%M:%S')} {who}: {why}")

    def add(self, what, message):
        with self.lock:
            getattr(self, what).add(message)

    def report(self):
        missing = self.confirmed - self.received
        return {
            "connections": self.connections,
            "connections_lost": len(self.lost),
            "sent": self.sent,
            "confirmed": len(self.confirmed),
            "received": len(self.received),
            "messages_lost": len(missing),
            "why": self.lost[:5],
        }


class Load:
    def __init__(self, amqp_port, mqtt_port, http_port, count):
        self.ports = (amqp_port, mqtt_port, http_port)
        self.count = count
        self.amqp, self.mqtt, self.http = Counts(), Counts(), Counts()
        self.stopping = threading.Event()
        self.drained = threading.Event()

    def connect_amqp(self):
        parameters = pika.ConnectionParameters("127.0.0.1", self.ports[0], heartbeat=30)
        connection = pika.BlockingConnection(parameters)
        self.amqp.connect()
        return connection, connection.channel()

    def guard(self, counts, who, work):
        try:
            work()
        except Exception as error:  # whatever ends a client is a loss
            counts.lose(who, repr(error))

    def publish(self, number):
        connection, channel = self.connect_amqp()
        channel.queue_declare(f"relsync-{number}", durable=True)
        channel.confirm_delivery()
        sequence = 0
        while not self.stopping.is_set():
            sequence += 1
            message = f"{number}-{sequence}"
            with self.amqp.lock:
                self.amqp.sent += 1
            # Returns when the broker has confirmed, or raises.
            channel.basic_publish("", f"relsync-{number}", message.encode(), mandatory=True)
            self.amqp.add("confirmed", message)
            connection.sleep(0.01)
        while not self.drained.is_set():
            connection.sleep(0.1)
        connection.close()

    def consume(self, number):
        connection, channel = self.connect_amqp()
        channel.queue_declare(f"relsync-{number}", durable=True)

        def receive(channel, method, _properties, body):
            self.amqp.add("received", body.decode())
            channel.basic_ack(method.delivery_tag)

        channel.basic_qos(prefetch_count=50)
        channel.basic_consume(f"relsync-{number}", receive)
        while not self.drained.is_set():
            connection.process_data_events(time_limit=0.1)
        connection.close()

    def chat(self, number):
        topic = f"relsync/{number}"
        client = mqtt.Client(
            mqtt.CallbackAPIVersion.VERSION2, f"relsync-{number}", reconnect_on_failure=False
        )
        subscribed = threading.Event()
        client.on_connect = lambda *_: client.subscribe(topic, qos=1)
        client.on_subscribe = lambda *_: subscribed.set()
        client.on_message = lambda _c, _u, message: self.mqtt.add("received", message.payload.decode())
        client.on_disconnect = lambda _c, _u, _f, reason, _p: (
            None if self.drained.is_set() else self.mqtt.lose(number, str(reason))
        )
        client.connect("127.0.0.1", self.ports[1], keepalive=10)
        client.loop_start()
        if not subscribed.wait(20):
            raise RuntimeError("not subscribed")
        self.mqtt.connect()
        sequence = 0
        while not self.stopping.is_set() and client.is_connected():
            sequence += 1
            message = f"{number}-{sequence}"
            with self.mqtt.lock:
                self.mqtt.sent += 1
            sent = client.publish(topic, message, qos=1)
            sent.wait_for_publish(10)
            if sent.is_published():
                self.mqtt.add("confirmed", message)
            time.sleep(0.01)
        self.drained.wait()
        client.disconnect()
        client.loop_stop()

    def manage(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.ports[2], timeout=20)
        headers = {"Authorization": "Basic " + base64.b64encode(b"guest:guest").decode()}
        self.http.connect()
        while not self.stopping.is_set():
            self.http.sent += 1
            connection.request("GET", "/api/overview", headers=headers)
            answer = connection.getresponse()
            body = answer.read()
            if answer.status != 200:
                raise RuntimeError(f"status {answer.status}: {body[:200]}")
            self.http.confirmed.add(self.http.sent)
            self.http.received.add(self.http.sent)
            time.sleep(0.1)

    def run(self, directory):
        clients = [(self.http, "management", self.manage)]
        for number in range(self.count):
            clients.append((self.amqp, f"publisher {number}", lambda n=number: self.publish(n)))
            clients.append((self.amqp, f"consumer {number}", lambda n=number: self.consume(n)))
            clients.append((self.mqtt, f"mqtt {number}", lambda n=number: self.chat(n)))
        threads = [threading.Thread(target=self.guard, args=client, daemon=True) for client in clients]
        for thread in threads:
            thread.start()
        wanted = [(self.amqp, 2 * self.count), (self.mqtt, self.count), (self.http, 1)]
        wait(lambda: all(counts.connections == number for counts, number in wanted))
        (directory / "ready").touch()
        while not (directory / "stop").exists():
            time.sleep(0.1)
        self.stopping.set()
        wait(lambda: not (self.amqp.confirmed - self.amqp.received))
        wait(lambda: not (self.mqtt.confirmed - self.mqtt.received))
        self.drained.set()
        for thread in threads:
            thread.join(5)

    def report(self):
        kinds = (("amqp", self.amqp), ("mqtt", self.mqtt), ("management", self.http))
        return {name: counts.report() for name, counts in kinds}


def wait(is_done):
    end = time.monotonic() + DRAIN_SECONDS
    while not is_done() and time.monotonic() < end:
        time.sleep(0.1)


def main():
    amqp_port, mqtt_port, http_port, count = map(int, sys.argv[1:5])
    load = Load(amqp_port, mqtt_port, http_port, count)
    load.run(pathlib.Path(sys.argv[5]))
    report = load.report()
    print(json.dumps(report))
    is_whole = all(
        kind["connections_lost"] == kind["messages_lost"] == 0 and kind["confirmed"] > 0
        for kind in report.values()
    )
    sys.exit(0 if is_whole else 1)


main()

"""What a tick costs NautilusTrader's matching core with resting stop orders. Run by a Python that has nautilus_trader.

Arguments: number of resting orders, number of ticks. Its OrderMatchingEngine alone, without strategy, portfolio or risk
engine: quotes that reach no trigger, half of the orders above the market and half below. Prints one JSON object.
"""

from __future__ import annotations

import json
import sys
import time

import nautilus_trader
from nautilus_trader.backtest.engine import OrderMatchingEngine
from nautilus_trader.backtest.models import FillModel, MakerTakerFeeModel
from nautilus_trader.common.component import MessageBus, TestClock
from nautilus_trader.common.factories import OrderFactory
from nautilus_trader.model import AccountId, Price, Quantity, QuoteTick, StrategyId, TraderId
from nautilus_trader.model.enums import AccountType, BookType, OmsType, OrderSide
from nautilus_trader.test_kit.providers import TestInstrumentProvider
from nautilus_trader.test_kit.stubs.component import TestComponentStubs

TRADER = TraderId("BENCH-001")
ACCOUNT = AccountId("BINANCE-001")
INSTRUMENT = TestInstrumentProvider.btcusdt_perp_binance()
MARKET = 50_000


def tick_us(orders: int, ticks: int) -> float:
    """Microseconds a quote takes while so many stop orders rest."""
    clock = TestClock()
    bus = MessageBus(trader_id=TRADER, clock=clock)
    cache = TestComponentStubs.cache()
    cache.add_instrument(INSTRUMENT)
    bus.register("ExecEngine.process", lambda event: cache.order(event.client_order_id).apply(event))
    engine = OrderMatchingEngine(
        instrument=INSTRUMENT,
        raw_id=0,
        fill_model=FillModel(),
        fee_model=MakerTakerFeeModel(),
        book_type=BookType.L1_MBP,
        oms_type=OmsType.NETTING,
        account_type=AccountType.MARGIN,
        msgbus=bus,
        cache=cache,
        clock=clock,
    )
    engine.process_quote_tick(_quote(0))
    factory = OrderFactory(trader_id=TRADER, strategy_id=StrategyId("S-001"), clock=clock)
    for number in range(orders):
        order = _order(factory, number, orders)
        cache.add_order(order)
        engine.process_order(order, ACCOUNT)
    quotes = [_quote(number) for number in range(1, ticks + 1)]
    started = time.perf_counter()
    for quote in quotes:
        engine.process_quote_tick(quote)
    taken = time.perf_counter() - started
    if len(engine.get_open_orders()) != orders:
        raise SystemExit(f"{len(engine.get_open_orders())} orders rest, not {orders}")
    return taken / ticks * 1e6


def _order(factory: OrderFactory, number: int, orders: int) -> object:
    """A stop-market order 2 to 42 % from the market; placed in an order that the engine's sorted lists take best."""
    above = number % 2 == 0
    away = MARKET * (0.02 + 0.4 * number / orders)
    return factory.stop_market(
        instrument_id=INSTRUMENT.id,
        order_side=OrderSide.BUY if above else OrderSide.SELL,
        quantity=Quantity.from_str("0.001"),
        trigger_price=Price.from_str(f"{MARKET + away if above else MARKET - away:.1f}"),
    )


def _quote(number: int) -> QuoteTick:
    bid = MARKET + number % 64
    return QuoteTick(
        instrument_id=INSTRUMENT.id,
        bid_price=Price.from_str(f"{bid}.0"),
        ask_price=Price.from_str(f"{bid + 1}.0"),
        bid_size=Quantity.from_str("1.000"),
        ask_size=Quantity.from_str("1.000"),
        ts_event=number,
        ts_init=number,
    )


def main() -> None:
    """Measure and print."""
    orders, ticks = int(sys.argv[1]), int(sys.argv[2])
    tick_us(0, ticks)  # code is loaded, caches are warm
    answer = {"version": nautilus_trader.__version__, "tick_us": tick_us(orders, ticks), "empty_us": tick_us(0, ticks)}
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()

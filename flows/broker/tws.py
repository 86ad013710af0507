"""The TWS that the settings name."""

from zoneinfo import ZoneInfo

from connectors.ibkr.session import Tws
from flows.common.settings import Settings


def tws_of(settings: Settings, client_id: int | None = None) -> Tws:
    """Return where it listens, and as whom to connect; client_id: another than the router's."""
    own = settings.ibkr_client_id if client_id is None else client_id
    zone = ZoneInfo(settings.ibkr_timezone)
    return Tws(settings.ibkr_host, settings.ibkr_port, own, zone)

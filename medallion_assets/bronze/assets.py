"""Bronze assets: registering deliveries and storing their lines. Wiring only.

How a file is read lies in resources/formats, how lines get their month in transforms.py.
"""

import dagster as dg

from medallion_assets.bronze.lines import LineStore
from medallion_assets.bronze.redating import Redating
from medallion_assets.bronze.register import Register
from medallion_assets.deliveries import record_numbers, standing
from medallion_assets.policies import landing_freshness, retry_transient
from medallion_assets.slices import retry_on_conflict, version_of
from medallion_assets.table_asset import asset_key, asset_options, plans_of, report, request_of
from medallion_assets.tables import BRONZE_SALES_ORDERS, DELIVERIES
from resources.lakehouse import Lakehouse
from resources.orders import OrderFiles
from resources.settings import Settings


def build_assets(settings: Settings) -> list[dg.AssetsDefinition]:
    """The two bronze assets."""

    @dg.asset(
        **asset_options(DELIVERIES, settings),
        freshness_policy=landing_freshness(),
    )
    @retry_transient
    def deliveries(
        context: dg.AssetExecutionContext,
        lakehouse: dg.ResourceParam[Lakehouse],
        orders: dg.ResourceParam[OrderFiles],
    ) -> dg.MaterializeResult:
        redating = Redating(
            settings,
            lakehouse,
            orders,
            plans_of(context.run, lakehouse, settings),
            context.log.info,
        )
        redated = retry_on_conflict(lambda: redating.run(context.run.tags))
        register = Register(settings, lakehouse, orders, context.log.info)
        registered = retry_on_conflict(lambda: register.run(context.run.run_id))
        for yyyymm, moved in redated.by_month().items():
            if yyyymm and str(yyyymm) not in context.partition_keys:
                context.log_event(
                    dg.AssetMaterialization(
                        asset_key(DELIVERIES), partition=str(yyyymm), metadata=moved
                    )
                )
        for delivery in registered:
            for month in delivery["months"]:
                if month["yyyymm"] and str(month["yyyymm"]) not in context.partition_keys:
                    told = {
                        "delivery": delivery["delivery_id"],
                        "file": delivery["file_name"],
                        "lines": month["line_count"],
                    }
                    context.log_event(
                        dg.AssetMaterialization(
                            asset_key(DELIVERIES), partition=str(month["yyyymm"]), metadata=told
                        )
                    )
        known = standing(lakehouse.rows(DELIVERIES))
        return dg.MaterializeResult(
            data_version=dg.DataVersion(
                version_of(sorted(known["delivery_id"]), int(record_numbers(known).max()))
                if len(known)
                else version_of([])
            ),
            metadata={
                "redated_deliveries": len(redated.records),
                "moved_lines": redated.moved_lines,
                "new_deliveries": len(registered),
                "new_lines": sum(delivery["line_count"] for delivery in registered),
                "known_deliveries": len(known),
                "files": dg.MetadataValue.md(
                    "\n".join(f"- {d['file_name']}: {d['line_count']:,} lines" for d in registered)
                    or "nothing new"
                ),
            },
        )

    @dg.asset(
        **asset_options(BRONZE_SALES_ORDERS, settings),
        deps=[
            asset_key(DELIVERIES),
            *(dg.AssetKey(str(s.table).split(".")) for s in settings.sources if s.mode == "adopt"),
        ],
    )
    @retry_transient
    def sales_orders(
        context: dg.AssetExecutionContext,
        lakehouse: dg.ResourceParam[Lakehouse],
        orders: dg.ResourceParam[OrderFiles],
    ) -> dg.MaterializeResult:
        request = request_of(context, BRONZE_SALES_ORDERS)
        store = LineStore(settings, lakehouse, orders, context.log.info)
        outcome = retry_on_conflict(lambda: store.run(request.months, context.run.run_id))
        return report(request, outcome)

    return [deliveries, sales_orders]


def external_assets(settings: Settings) -> list[dg.AssetSpec]:
    """Adopted tables: the company's own bronze, shown in the graph, never written."""
    return [
        dg.AssetSpec(
            dg.AssetKey(str(source.table).split(".")),
            group_name="external",
            kinds={"delta"},
            description=(
                f"Order lines of source {source.name}, kept by their owner. Read by month, never"
                " written."
            ),
        )
        for source in settings.sources
        if source.mode == "adopt"
    ]
